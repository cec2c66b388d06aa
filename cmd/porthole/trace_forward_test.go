package main

import (
	"strings"
	"testing"
	"time"

	"porthole.dev/porthole/internal/node"
)

func TestForwardLine(t *testing.T) {
	r := node.Record{
		Time: time.Date(2026, 11, 23, 14, 20, 7, 311e6, time.Local), Event: node.EventClosed, Namespace: "default", Pod: "kuard", Port: 8080,
		Sent: 78, Received: 5120, Seconds: .0124567, Result: "ok",
	}
	for client, column := range map[string]string{
		"10.200.0.1":                       "10.200.0.1     ",
		"10.200.0.1, 10.200.0.1":           "10.200.0.1     ",
		"192.0.2.7,10.200.0.1, 10.200.0.1": "192.0.2.7      ",
		"2001:db8::7, 10.200.0.1":          "2001:db8::7    ",
		" 192.0.2.7 , 10.200.0.1":          "192.0.2.7      ",
		"":                                 "-              ",
		", 10.200.0.1":                     "-              ",
		"\x1b[2J":                          `$'\x1b[2J'     `,
		"\x1b[2J, 10.200.0.1":              `$'\x1b[2J'     `,
	} {
		r.Client = client
		want := "14:20:07.311 default/kuard                            8080  " + column + "         78       5120 12.46ms    ok\n"
		if got := forwardLine(r); got != want {
			t.Errorf("client %q:\ngot  %swant %s", client, got, want)
		}
	}
}

// The network is part of the port's column.
func TestForwardLineNetworks(t *testing.T) {
	for column, r := range map[string]node.Record{
		"53/udp": {Network: "udp", Port: 53}, "8080": {Network: "tcp", Port: 8080}, "/run/db.sock": {Network: "unix", Path: "/run/db.sock"},
		`$'/run/\x1b[2J'`: {Network: "unix", Path: "/run/\x1b[2J"},
	} {
		if fields := strings.Fields(forwardLine(r)); fields[2] != column {
			t.Errorf("%+v: port column %s, want %s", r, fields[2], column)
		}
	}
}

func TestCell(t *testing.T) {
	for s, want := range map[string]string{
		"":                     "-",
		"10.0.0.1, 10.200.0.1": "'10.0.0.1, 10.200.0.1'",
		"a\nb":                 `$'a\nb'`,
		"\u202egnp":            `$'\xe2\x80\xaegnp'`,
		"\xff":                 `$'\xff'`,
		`"`:                    `'"'`,
	} {
		if got := cell(s); got != want {
			t.Errorf("cell(%q) = %s, want %s", s, got, want)
		}
	}
}
