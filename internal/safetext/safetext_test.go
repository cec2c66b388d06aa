package safetext_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"porthole.dev/porthole/internal/safetext"
)

func TestLine(t *testing.T) {
	for s, want := range map[string]string{
		"":                                    "",
		"no pod is ready, é, 日本, 🙂":           "no pod is ready, é, 日本, 🙂",
		"\x1b]0;title\a":                      `\u001b]0;title\u0007`,
		"a\r\nb\tc\x7f":                       `a\u000d\u000ab\u0009c\u007f`,
		"\u009b31m":                           `\u009b31m`,
		"\x9b31m\xff":                         "\ufffd31m\ufffd",
		"\ufffd":                              "\ufffd",
		"\u202egnp.exe":                       `\u202egnp.exe`,
		"a\u200bb\u2066c\ufeff":               `a\u200bb\u2066c\ufeff`,
		"\U000e0041":                          `\udb40\udc41`,
		"{\"a\":\"\u009b\x7f\u202e \u00e9\"}": `{"a":"\u009b\u007f\u202e é"}`,
	} {
		if got := safetext.Line(s); got != want {
			t.Errorf("Line(%q) = %q, want %q", s, got, want)
		}
	}
	if got, want := safetext.Lines("a\n\tb\x1bc\n"), "a\n\tb\\u001bc\n"; got != want {
		t.Errorf("Lines = %q, want %q", got, want)
	}
}

// TestWriterSplit: a character that comes in two writes is that character, and one
// that never ends is none.
func TestWriterSplit(t *testing.T) {
	text := "é日🙂\x1b\u009b\n"
	for i := range len(text) {
		var out bytes.Buffer
		w := safetext.Writer(&out)
		for _, part := range []string{text[:i], text[i:]} {
			if n, err := w.Write([]byte(part)); n != len(part) || err != nil {
				t.Fatalf("Write(%q) = %d, %v", part, n, err)
			}
		}
		if got, want := out.String(), "é日🙂\\u001b\\u009b\n"; got != want {
			t.Errorf("split at %d: %q, want %q", i, got, want)
		}
	}
	var out bytes.Buffer
	w := safetext.Writer(&out)
	_, _ = w.Write([]byte("\xe6\x97"))
	_, _ = w.Write([]byte("a"))
	if got, want := out.String(), "\ufffd\ufffda"; got != want {
		t.Errorf("broken off: %q, want %q", got, want)
	}
}

// FuzzLine: whatever comes in, what goes out is text that a terminal only shows, on
// one line, and what was text already is as it was.
func FuzzLine(f *testing.F) {
	for _, s := range []string{"", "a", "\x1b[2J", "\x9b", "\u009b", "\x7f", "é\xc3", "\u202e", "\U000e0041", "\x00\r\n\t", "\ufffd\xff", "\xed\xa0\x80"} {
		f.Add(s, 1)
	}
	f.Fuzz(func(t *testing.T, s string, at int) {
		line := safetext.Line(s)
		check(t, line, "")
		if again := safetext.Line(line); again != line {
			t.Fatalf("Line(%q) = %q, and again %q", s, line, again)
		}
		if utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) && line != s {
			t.Fatalf("Line(%q) = %q", s, line)
		}
		lines := safetext.Lines(s)
		check(t, lines, "\n\t")
		text, err := json.Marshal(s)
		var back, want string
		if err != nil || json.Unmarshal(text, &want) != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(safetext.Line(string(text))), &back); err != nil || back != want {
			t.Fatalf("JSON of %q: %q, %v", s, back, err)
		}
		var out bytes.Buffer
		w := safetext.Writer(&out)
		at = max(0, min(at, len(s)))
		_, _ = w.Write([]byte(s[:at]))
		_, _ = w.Write([]byte(s[at:] + "\n"))
		if got := out.String(); got != safetext.Lines(s+"\n") {
			t.Fatalf("Writer split at %d: %q, want %q", at, got, safetext.Lines(s+"\n"))
		}
	})
}

// check looks at the bytes, and not by what the package thinks of them.
func check(t *testing.T, text, allowed string) {
	t.Helper()
	if !utf8.ValidString(text) {
		t.Fatalf("%q is not UTF-8", text)
	}
	for _, r := range text {
		control := r < 0x20 || r >= 0x7f && r <= 0x9f
		hides := unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp)
		if (control || hides) && !strings.ContainsRune(allowed, r) {
			t.Fatalf("%q has %U", text, r)
		}
	}
}
