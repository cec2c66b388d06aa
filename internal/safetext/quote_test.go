package safetext_test

import (
	"os/exec"
	"strings"
	"testing"
	"unicode"

	"porthole.dev/porthole/internal/safetext"
	"porthole.dev/porthole/internal/testenv"
)

func TestQuote(t *testing.T) {
	for _, tt := range []struct{ s, want string }{
		{"", "''"},
		{"/usr/bin/nsenter", "/usr/bin/nsenter"},
		{"TCP4:localhost:8080", "TCP4:localhost:8080"},
		{"--a=b,c@d_e+f%g.h", "--a=b,c@d_e+f%g.h"},
		{"é", "é"},
		{"two words", "'two words'"},
		{"$HOME", "'$HOME'"},
		{`a\b`, `'a\b'`},
		{"~", "'~'"},
		{"it's", `$'it\'s'`},
		{"'\\", `$'\'\\'`},
		{"a\nb\tc", `$'a\nb\tc'`},
		{"\x1b[31m", `$'\x1b[31m'`},
		{"\x7f", `$'\x7f'`},
		{"\u009b", `$'\xc2\x9b'`},
		{"\u202e", `$'\xe2\x80\xae'`},
		{"\u00a0", `$'\xc2\xa0'`},
		{"\ufffd", `$'\xef\xbf\xbd'`},
		{"\xff", `$'\xff'`},
		{"é\xc3", `$'é\xc3'`},
	} {
		if got := safetext.Quote(tt.s); got != tt.want {
			t.Errorf("Quote(%q) = %s, want %s", tt.s, got, tt.want)
		}
	}
	if got, want := safetext.QuoteAll("a", "b c"), "a 'b c'"; got != want {
		t.Errorf("QuoteAll = %s, want %s", got, want)
	}
}

// FuzzQuote: nothing unprintable is left, and bash reads back what was quoted.
func FuzzQuote(f *testing.F) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		testenv.Lacking(f, "bash, to read back what is quoted")
	}
	for _, s := range []string{"", "a", "it's", "\x1b[31m", "\xff\xfe", "\\x41", "a\x01" + "1", "$(id)`id`", "é\u009b", "!!", "#", "{a,b}", "*"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		s = strings.ReplaceAll(s, "\x00", "") // no argument has one
		quoted := safetext.Quote(s)
		if strings.ContainsFunc(quoted, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Fatalf("Quote(%q) = %q has what does not print", s, quoted)
		}
		if len(s) > 10_000 {
			return // bash -c takes no more than 128 KiB
		}
		back, err := exec.Command(bash, "-c", "printf %s. "+quoted).Output()
		if err != nil || string(back) != s+"." {
			t.Fatalf("Quote(%q) = %s, which bash reads as %q, %v", s, quoted, back, err)
		}
	})
}
