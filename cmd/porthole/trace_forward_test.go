package main

import (
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
