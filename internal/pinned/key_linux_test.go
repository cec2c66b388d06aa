package pinned_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"porthole.dev/porthole/internal/pinned"
	"porthole.dev/porthole/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

func TestPublicKeyText(t *testing.T) {
	public := newKey(t).Public()
	if parsed, err := pinned.ParsePublicKey(public.String()); parsed != public || err != nil {
		t.Errorf("%s is parsed as %s, %v", public, parsed, err)
	}
	text := public.String()
	zero := strings.Repeat("A", len(text))
	for _, wrong := range []string{"", "x", text[1:], text + "A", text + "=", "\n" + text, strings.Repeat("/", len(text)), text[:len(text)-1] + "B", zero} {
		if _, err := pinned.ParsePublicKey(wrong); !errors.Is(err, pinned.ErrPublicKey) {
			t.Errorf("%q: %v, want ErrPublicKey", wrong, err)
		}
	}
}

func FuzzParsePublicKey(f *testing.F) {
	f.Add("O2onvM62pC1io6jQKm8Nc2UyFXcd4kOmOsBIoYtZ2ik")
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		if p, err := pinned.ParsePublicKey(text); err == nil && p.String() != text {
			t.Errorf("%q is read as %q", text, p)
		}
	})
}

// A key is not written into a log by mistake.
func TestKeyIsNotPrinted(t *testing.T) {
	key := newKey(t)
	want := "private key of " + key.Public().String()
	for _, format := range []string{"%v", "%+v", "%s"} {
		if got := fmt.Sprintf(format, key); got != want {
			t.Errorf("%s prints %q", format, got)
		}
	}
}

func TestLoadKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "porthole", "agent.key")
	first, made, err := pinned.LoadKey(path)
	if err != nil || !made {
		t.Fatalf("made: %v, %v", made, err)
	}
	again, made, err := pinned.LoadKey(path)
	if err != nil || made || again.Public() != first.Public() {
		t.Errorf("the second time: made %v, %v, %v", made, again, err)
	}
	for name, want := range map[string]fs.FileMode{path: 0o600, filepath.Dir(path): 0o700} {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v, want mode %v", name, info.Mode(), err, want)
		}
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 1 {
		t.Errorf("left beside the key: %v", left)
	}
}

// Of several that make the key at once, all get the same.
func TestLoadKeyAtOnce(t *testing.T) {
	for range 20 {
		path := filepath.Join(t.TempDir(), "agent.key")
		const several = 8
		keys, makers := make(chan pinned.PublicKey, several), make(chan bool, several)
		start := make(chan struct{})
		for range several {
			go func() {
				<-start
				k, made, err := pinned.LoadKey(path)
				if err != nil {
					t.Error(err)
					k, _ = pinned.NewKey()
				}
				makers <- made
				keys <- k.Public()
			}()
		}
		close(start)
		first, made := <-keys, 0
		for range several - 1 {
			if k := <-keys; k != first {
				t.Fatal("two keys")
			}
		}
		for range several {
			if <-makers {
				made++
			}
		}
		if made != 1 {
			t.Errorf("%d have made it", made)
		}
	}
}

func TestLoadKeyErrors(t *testing.T) {
	for name, c := range map[string]struct {
		content string
		mode    fs.FileMode
		want    error
	}{
		"empty":       {"", 0o600, pinned.ErrDamaged},
		"text":        {"not a key", 0o600, pinned.ErrDamaged},
		"cut off":     {"-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA==\n-----END PRIVATE KEY-----\n", 0o600, pinned.ErrDamaged},
		"certificate": {"-----BEGIN CERTIFICATE-----\nMC4=\n-----END CERTIFICATE-----\n", 0o600, pinned.ErrDamaged},
		"group":       {"", 0o640, pinned.ErrExposed},
		"everybody":   {"", 0o604, pinned.ErrExposed},
	} {
		path := filepath.Join(t.TempDir(), "agent.key")
		if err := os.WriteFile(path, []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, c.mode); err != nil {
			t.Fatal(err)
		}
		_, _, err := pinned.LoadKey(path)
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want %v with its path", name, err, c.want)
		}
		if after, _ := os.ReadFile(path); string(after) != c.content {
			t.Errorf("%s: the file was changed", name)
		}
	}
	if _, _, err := pinned.LoadKey(filepath.Join("/proc/self/status", "agent.key")); err == nil || !strings.Contains(err.Error(), "/proc/self/status/agent.key") {
		t.Errorf("below a file: %v, want an error with its path", err)
	}
}
