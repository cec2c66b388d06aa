package target_test

import (
	"errors"
	"testing"

	"porthole.dev/porthole/internal/target"
)

func TestParseHost(t *testing.T) {
	for text, want := range map[string]target.Host{
		"ssh://build":              {Name: "build"},
		"ssh://build/":             {Name: "build"},
		"ssh://me@build:2222":      {User: "me", Name: "build", Port: 2222},
		"ssh://192.0.2.1":          {Name: "192.0.2.1"},
		"ssh://me@[2001:db8::1]:1": {User: "me", Name: "2001:db8::1", Port: 1},
		"ssh://[fe80::1%eth0]":     {Name: "fe80::1%eth0"},
	} {
		got, err := target.ParseHost(text)
		if err != nil || got != want {
			t.Errorf("ParseHost(%q) = %+v, %v, want %+v", text, got, err, want)
		}
		if again, err := target.ParseHost(got.String()); err != nil || again != want {
			t.Errorf("%q is read as %+v, %v", got, again, err)
		}
	}
	for _, text := range []string{
		"", "build", "http://build", "ssh://", "ssh://@build", "ssh://me:secret@build", "ssh://me@", "ssh://build:", "ssh://build:0", "ssh://build:65536", "ssh://build:ssh",
		"ssh://-oProxyCommand=x", "ssh://-l@build", "ssh://a b", "ssh://a;b", "ssh://$(x)", "ssh://a/b", "ssh://a\nb", "ssh://[a", "ssh://`x`@b", "ssh://a@b@c;",
	} {
		if got, err := target.ParseHost(text); !errors.Is(err, target.ErrHost) {
			t.Errorf("ParseHost(%q) = %+v, %v, want ErrHost", text, got, err)
		}
	}
}

func FuzzParseHost(f *testing.F) {
	f.Add("ssh://me@[fe80::1%eth0]:22")
	f.Add("ssh://-x")
	f.Fuzz(func(t *testing.T, text string) {
		h, err := target.ParseHost(text)
		if err != nil {
			return
		}
		if h.Name == "" || h.Name[0] == '-' || h.User != "" && h.User[0] == '-' {
			t.Fatalf("ParseHost(%q) = %+v", text, h)
		}
		if again, err := target.ParseHost(h.String()); err != nil || again != h {
			t.Fatalf("ParseHost(%q) = %+v, and %q is %+v, %v", text, h, h, again, err)
		}
	})
}
