package safetext

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// QuoteAll is a command line that a shell reads back.
func QuoteAll(args ...string) string {
	quoted := make([]string, len(args))
	for i, arg := range args {
		quoted[i] = Quote(arg)
	}
	return strings.Join(quoted, " ")
}

// Quote is a word as bash reads it back. Nothing in it moves a
// terminal's cursor or changes its state, whatever bytes s has.
func Quote(s string) string {
	switch {
	case s != "" && strings.IndexFunc(s, isSpecial) < 0:
		return s
	case !strings.Contains(s, "'") && strings.IndexFunc(s, isUnprintable) < 0:
		return "'" + s + "'"
	}
	var b strings.Builder
	b.WriteString("$'")
	for rest := s; rest != ""; {
		r, size := utf8.DecodeRuneInString(rest)
		b.WriteString(escape(r, rest[:size]))
		rest = rest[size:]
	}
	b.WriteString("'")
	return b.String()
}

// escape is a rune inside of $'...'; raw are its bytes.
func escape(r rune, raw string) string {
	switch r {
	case '\n':
		return `\n`
	case '\t':
		return `\t`
	case '\'', '\\':
		return `\` + raw
	}
	if !isUnprintable(r) {
		return raw
	}
	var b strings.Builder
	for i := range len(raw) {
		fmt.Fprintf(&b, `\x%02x`, raw[i])
	}
	return b.String()
}

// isSpecial tells whether a shell may take a rune for more than itself.
func isSpecial(r rune) bool {
	return isUnprintable(r) || r < utf8.RuneSelf && !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("%+,-./:=@_", r)
}

func isUnprintable(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }
