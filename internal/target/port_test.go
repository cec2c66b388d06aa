package target_test

import (
	"errors"
	"testing"

	"porthole.dev/porthole/internal/target"
)

func TestParsePort(t *testing.T) {
	for text, want := range map[string]target.Port{
		"8080":              {Local: 8080, Remote: 8080},
		"8080:80":           {Local: 8080, Remote: 80},
		":80":               {Remote: 80},
		"0:80":              {Remote: 80},
		"127.0.0.2:8080:80": {Address: "127.0.0.2", Local: 8080, Remote: 80},
		"0.0.0.0::80":       {Address: "0.0.0.0", Remote: 80},
		"[::1]:8080:80":     {Address: "::1", Local: 8080, Remote: 80},
		"localhost:8080:80": {Address: "localhost", Local: 8080, Remote: 80},
		"[::]::80":          {Address: "::", Remote: 80},
	} {
		got, err := target.ParsePort(text)
		if err != nil || got != want {
			t.Errorf("ParsePort(%q) = %+v, %v, want %+v", text, got, err, want)
		}
	}
}

func TestParsePortRejects(t *testing.T) {
	for _, text := range []string{
		"", ":", "0", "80:0", "80:", "65536", "8080:65536", "99999999999999999999", "-1", "+1", "http", "8080:http",
		"1:2:3", "1:2:3:4", "127.0.0.1:80", "example.com:8080:80", "::1:8080:80", "[::1]:80", "[::1]", "[]:1:2", "[127.0.0.1:1:2", "8080 ",
		"53/sctp", "53/udp:53", "/udp", "0/udp", "x:/run/x.sock", "/run/x.sock", "./db.sock:", "./db.sock:0", "1:2:3/udp", "dns/udp",
	} {
		if got, err := target.ParsePort(text); !errors.Is(err, target.ErrPort) {
			t.Errorf("ParsePort(%q) = %+v, %v, want ErrPort", text, got, err)
		}
	}
}

func TestParsePortOfOtherNetworks(t *testing.T) {
	for text, want := range map[string]target.Port{
		"53:53/udp":                   {Network: target.UDP, Local: 53, Remote: 53},
		"53/udp":                      {Network: target.UDP, Local: 53, Remote: 53},
		":53/udp":                     {Network: target.UDP, Remote: 53},
		"[::1]:53:53/udp":             {Network: target.UDP, Address: "::1", Local: 53, Remote: 53},
		"5432:/run/x.sock":            {Network: target.Unix, Local: 5432, Path: "/run/x.sock"},
		":/run/x:y.sock":              {Network: target.Unix, Path: "/run/x:y.sock"},
		"127.0.0.2:5432:/run/x.sock":  {Network: target.Unix, Address: "127.0.0.2", Local: 5432, Path: "/run/x.sock"},
		"./db.sock:5432":              {LocalPath: "./db.sock", Remote: 5432},
		"/run/a:b.sock:5432":          {LocalPath: "/run/a:b.sock", Remote: 5432},
		"../db.sock:/run/x.sock":      {Network: target.Unix, LocalPath: "../db.sock", Path: "/run/x.sock"},
		"/run/db.sock:./var/x:y.sock": {Network: target.Unix, LocalPath: "/run/db.sock", Path: "./var/x:y.sock"},
	} {
		got, err := target.ParsePort(text)
		if !errors.Is(err, target.ErrUnsupported) || got != want {
			t.Errorf("ParsePort(%q) = %+v, %v, want %+v, ErrUnsupported", text, got, err, want)
		}
		if again, _ := target.ParsePort(got.String()); again != want {
			t.Errorf("%q is read as %+v, want %+v", got, again, want)
		}
	}
	if got, err := target.ParseNamedPort("dns/udp"); !errors.Is(err, target.ErrUnsupported) || got != (target.Port{Network: target.UDP, Name: "dns", Same: true}) {
		t.Errorf("ParseNamedPort of a name = %+v, %v", got, err)
	}
	if got, err := target.ParsePort("8080:80/tcp"); err != nil || got != (target.Port{Local: 8080, Remote: 80}) {
		t.Errorf("ParsePort with TCP = %+v, %v", got, err)
	}
}

func TestParseNamedPort(t *testing.T) {
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
	} {
		got, err := target.ParseNamedPort(text)
		if err != nil || got != want {
			t.Errorf("ParseNamedPort(%q) = %+v, %v, want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"", ":", "HTTP", "http:80", "8080:-a", "8080:a_b", "x:y", "65536", "80:0"} {
		if got, err := target.ParseNamedPort(text); !errors.Is(err, target.ErrPort) {
			t.Errorf("ParseNamedPort(%q) = %+v, %v, want ErrPort", text, got, err)
		}
	}
}

func FuzzParsePort(f *testing.F) {
	for _, seed := range []string{"8080", "8080:80", ":80", "127.0.0.2:8080:80", "[::1]:8080:80", "[fe80::1%eth0]::80", "[::ffff:1.2.3.4]:1:2", "http", "8080:http", "53:53/udp", "dns/udp", "5432:/run/a:b", "./a:80", "./a:b:./c:d"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		parsed, err := target.ParseNamedPort(text)
		if err != nil && !errors.Is(err, target.ErrUnsupported) {
			return
		}
		if (parsed.Remote == 0) != (parsed.Name != "" || parsed.Path != "") {
			t.Fatalf("ParseNamedPort(%q) = %+v: want a number, a name or a path", text, parsed)
		}
		again, err := target.ParseNamedPort(parsed.String())
		if err != nil && !errors.Is(err, target.ErrUnsupported) || again != parsed {
			t.Fatalf("ParseNamedPort(%q) = %+v, but ParseNamedPort(%q) = %+v, %v", text, parsed, parsed, again, err)
		}
	})
}
