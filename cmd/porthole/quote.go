package main

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// quoteAll is a command line that a shell reads back, with "..." where it is incomplete.
func quoteAll(args []string, truncated bool) string {
	quoted := make([]string, 0, len(args)+1)
	for _, arg := range args {
		quoted = append(quoted, quote(arg))
	}
	if truncated {
		quoted = append(quoted, "...")
	}
	return strings.Join(quoted, " ")
}

// quote is a word as bash reads it back. Nothing in it moves a
// terminal's cursor or changes its state, whatever bytes s has.
func quote(s string) string {
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
