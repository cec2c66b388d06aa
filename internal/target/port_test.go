package target_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"porthole.dev/porthole/internal/target"
)

func TestParsePorts(t *testing.T) {
	for text, want := range map[string]target.Port{
		"8080":              {Local: 8080, Remote: 8080},
		"8080:80":           {Local: 8080, Remote: 80},
		":80":               {Remote: 80},
		"0:80":              {Remote: 80},
		"8080:80/tcp":       {Local: 8080, Remote: 80},
		"127.0.0.2:8080:80": {Address: "127.0.0.2", Local: 8080, Remote: 80},
		"0.0.0.0::80":       {Address: "0.0.0.0", Remote: 80},
		"[::1]:8080:80":     {Address: "::1", Local: 8080, Remote: 80},
		"localhost:8080:80": {Address: "localhost", Local: 8080, Remote: 80},
		"[::]::80":          {Address: "::", Remote: 80},

		"53:53/udp":       {Network: target.UDP, Local: 53, Remote: 53},
		"53/udp":          {Network: target.UDP, Local: 53, Remote: 53},
		":53/udp":         {Network: target.UDP, Remote: 53},
		"[::1]:53:53/udp": {Network: target.UDP, Address: "::1", Local: 53, Remote: 53},

		"5432:/run/x.sock":            {Network: target.Unix, Local: 5432, Path: "/run/x.sock"},
		":/run/x:y.sock":              {Network: target.Unix, Path: "/run/x:y.sock"},
		"127.0.0.2:5432:/run/x.sock":  {Network: target.Unix, Address: "127.0.0.2", Local: 5432, Path: "/run/x.sock"},
		"./db.sock:5432":              {LocalPath: "./db.sock", Remote: 5432},
		"../db.sock:/run/x.sock":      {Network: target.Unix, LocalPath: "../db.sock", Path: "/run/x.sock"},
		"/run/db.sock:./var/x:y.sock": {Network: target.Unix, LocalPath: "/run/db.sock", Path: "./var/x:y.sock"},

		"8080:db:80":                  {Local: 8080, Host: "db", Remote: 80},
		":db.shop.svc:80":             {Host: "db.shop.svc", Remote: 80},
		"8080:localhost:80":           {Local: 8080, Host: "localhost", Remote: 80},
		"8080:10.0.0.1:80":            {Local: 8080, Host: "10.0.0.1", Remote: 80},
		"8080:[fd00::1]:80":           {Local: 8080, Host: "fd00::1", Remote: 80},
		"127.0.0.2:8080:db:80":        {Address: "127.0.0.2", Local: 8080, Host: "db", Remote: 80},
		"[::1]::[fe80::1%eth0]:80":    {Address: "::1", Host: "fe80::1%eth0", Remote: 80},
		"53:10.96.0.10:53/udp":        {Network: target.UDP, Local: 53, Host: "10.96.0.10", Remote: 53},
		"./db.sock:_pg.internal:5432": {LocalPath: "./db.sock", Host: "_pg.internal", Remote: 5432},
	} {
		got, err := target.ParsePorts(text)
		if err != nil || !slices.Equal(got, []target.Port{want}) {
			t.Errorf("ParsePorts(%q) = %+v, %v, want %+v", text, got, err, want)
			continue
		}
		if again, err := target.ParsePorts(want.String()); err != nil || !slices.Equal(again, got) {
			t.Errorf("%q is read as %+v, %v, want %+v", want, again, err, want)
		}
	}
}

func TestParseRanges(t *testing.T) {
	for text, want := range map[string][]target.Port{
		"8000-8002":           {{Local: 8000, Remote: 8000}, {Local: 8001, Remote: 8001}, {Local: 8002, Remote: 8002}},
		"9000-9001:8000-8001": {{Local: 9000, Remote: 8000}, {Local: 9001, Remote: 8001}},
		":80-81":              {{Remote: 80}, {Remote: 81}},
		"0:80-81":             {{Remote: 80}, {Remote: 81}},
		"80-80":               {{Local: 80, Remote: 80}},
		"[::1]:5-6:7-8/udp":   {{Network: target.UDP, Address: "::1", Local: 5, Remote: 7}, {Network: target.UDP, Address: "::1", Local: 6, Remote: 8}},
		"5-6:db:7-8":          {{Host: "db", Local: 5, Remote: 7}, {Host: "db", Local: 6, Remote: 8}},
	} {
		if got, err := target.ParsePorts(text); err != nil || !slices.Equal(got, want) {
			t.Errorf("ParsePorts(%q) = %+v, %v, want %+v", text, got, err, want)
		}
	}
	if all, err := target.ParsePorts("64512-65535"); err != nil || len(all) != target.MaxRange || all[1023].Remote != 65535 {
		t.Errorf("the longest range has %d ports, %v", len(all), err)
	}
}

func TestParsePortsRejects(t *testing.T) {
	for text, want := range map[string]string{
		"8010-8000":           "the range 8010-8000 goes backwards",
		"1-1025":              "the range 1-1025 has 1025 ports, of 1024 at most",
		"0-5":                 "the range 0-5 begins with 0",
		"9000-9001:8000-8002": "2 to listen on and 3 to connect to",
		"9000:8000-8002":      "1 to listen on and 3 to connect to",
		"9000-9001:/run/x":    "2 to listen on and 1 to connect to",
		"./x.sock:1-2":        "one Unix socket cannot stand for 2 ports",
		"./x.sock:53/udp":     "a Unix socket cannot stand for a UDP port",
		"/run/x.sock":         "takes something here that leads to it, such as :/run/x.sock",
		"80:0":                "the remote port is 0",
		"80:":                 "the remote port is missing",
		"65536":               "65536 is out of range, ports end at 65535",
		"8080:-x:80":          `"-x" is not a host`,
		"1:2:3":               `"2" is not a host`,
		"1:1.2:3":             `"1.2" is not a host`,
		"8080::80":            `"" is not a host`,
		"example.com:8080:80": `address "example.com": neither an IP address nor localhost`,
		"1:2:3:4":             `address "1": neither an IP address nor localhost`,
		"1:2:3:4:5":           "want [[ADDRESS:]LOCAL:]REMOTE",
		"127.0.0.1:80":        "want [[ADDRESS:]LOCAL:]REMOTE",
		"[::1]:80":            "want [[ADDRESS:]LOCAL:]REMOTE",
	} {
		got, err := target.ParsePorts(text)
		if !errors.Is(err, target.ErrPort) && !errors.Is(err, target.ErrAddress) || !strings.Contains(err.Error(), want) {
			t.Errorf("ParsePorts(%q) = %+v, %v, want %q", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", ":", "0", "-", "1-", "-1", "+1", "1-2-3", "99999999999999999999", "http", "8080:http", "8080:http-2",
		"::1:8080:80", "[::1]:80", "[::1]", "[]:1:2", "[127.0.0.1:1:2", "8080 ", "8080:db/x:80", "8080:a b:80",
		"53/sctp", "53/udp:53", "/udp", "0/udp", "x:/run/x.sock", "/run/x.sock", "8080:db:/run/x.sock", "8080:db:http", "./db.sock:", "./db.sock:0", "dns/udp",
	} {
		if got, err := target.ParsePorts(text); !errors.Is(err, target.ErrPort) && !errors.Is(err, target.ErrAddress) {
			t.Errorf("ParsePorts(%q) = %+v, %v, want ErrPort", text, got, err)
		}
	}
}

func TestParseNamedPorts(t *testing.T) {
	for text, want := range map[string]target.Port{
		"8080:80":            {Local: 8080, Remote: 80},
		"http":               {Name: "http", Same: true},
		"http:http":          {Name: "http", Same: true},
		":http":              {Name: "http"},
		"0:http":             {Name: "http"},
		"8080:http":          {Name: "http", Local: 8080},
		"8080:8-b":           {Name: "8-b", Local: 8080},
		"[::1]:8080:http-2":  {Name: "http-2", Local: 8080, Address: "::1"},
		"127.0.0.1:web:web":  {Name: "web", Same: true, Address: "127.0.0.1"},
		"127.0.0.1:8080:web": {Name: "web", Local: 8080, Address: "127.0.0.1"},
		"dns/udp":            {Network: target.UDP, Name: "dns", Same: true},
		"53:dns/udp":         {Network: target.UDP, Name: "dns", Local: 53},
		"./x.sock:http":      {Name: "http", LocalPath: "./x.sock"},
	} {
		got, err := target.ParseNamedPorts(text)
		if err != nil || !slices.Equal(got, []target.Port{want}) {
			t.Errorf("ParseNamedPorts(%q) = %+v, %v, want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"", ":", "HTTP", "http:80", "8080:-a", "8080:a_b", "x:y", "65536", "80:0", "1-2:http", "8080:http:80/sctp"} {
		if got, err := target.ParseNamedPorts(text); !errors.Is(err, target.ErrPort) {
			t.Errorf("ParseNamedPorts(%q) = %+v, %v, want ErrPort", text, got, err)
		}
	}
}

func FuzzParsePorts(f *testing.F) {
	for _, seed := range []string{
		"8080", "8080:80", ":80", "127.0.0.2:8080:80", "[::1]:8080:80", "[fe80::1%eth0]::80", "[::ffff:1.2.3.4]:1:2", "http", "8080:http", "53:53/udp", "dns/udp",
		"5432:/run/a:b", "./a:80", "./a:./c:d", "1-3", ":1-3/udp", "1-2:db:3-4", "1:[fe80::1%a]:2", "[::1]:1:db:2",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		ports, err := target.ParseNamedPorts(text)
		if err != nil {
			return
		}
		for _, p := range ports {
			if (p.Remote == 0) != (p.Name != "" || p.Path != "") {
				t.Fatalf("ParseNamedPorts(%q) = %+v: want a number, a name or a path", text, p)
			}
			again, err := target.ParseNamedPorts(p.String())
			if err != nil || !slices.Equal(again, []target.Port{p}) {
				t.Fatalf("ParseNamedPorts(%q) = %+v, but ParseNamedPorts(%q) = %+v, %v", text, p, p, again, err)
			}
		}
	})
}
