// Package safetext makes text that others chose safe for a terminal, a log and a shell: names, error texts, arguments, whatever bytes they have.
// It must not know where a text comes from, nor whether it is JSON.
package safetext

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"sync"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Line is s as one line that a terminal only shows: whatever does not print, line
// ends among it, is escaped as JSON does it (\u001b), and so are the characters
// that reorder or hide others. Bytes that are not UTF-8 become U+FFFD. JSON on one
// line means the same afterwards.
func Line(s string) string {
	if isSafe(s, unicode.IsPrint) {
		return s
	}
	return string(appendSafe(make([]byte, 0, len(s)+16), s, unicode.IsPrint))
}

// Lines is Line for text of several lines: line ends stay, and tabs.
func Lines(s string) string {
	if isSafe(s, isText) {
		return s
	}
	return string(appendSafe(make([]byte, 0, len(s)+16), s, isText))
}

// isText tells whether a rune of several lines shows, or moves on as text does.
func isText(r rune) bool { return r == '\n' || r == '\t' || unicode.IsPrint(r) }

func isSafe(s string, passes func(rune) bool) bool {
	for i, r := range s {
		if r == utf8.RuneError {
			if _, size := utf8.DecodeRuneInString(s[i:]); size == 1 {
				return false
			}
		} else if !passes(r) {
			return false
		}
	}
	return true
}

func appendSafe(to []byte, s string, passes func(rune) bool) []byte {
	for _, r := range s {
		switch {
		case r == utf8.RuneError || passes(r): // U+FFFD also for each byte that is not UTF-8
			to = utf8.AppendRune(to, r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			to = fmt.Appendf(to, `\u%04x\u%04x`, high, low)
		default:
			to = fmt.Appendf(to, `\u%04x`, r)
		}
	}
	return to
}

// Writer passes on what is written as Lines has it, also where a character comes
// in two writes. Several goroutines may use it at once.
func Writer(to io.Writer) io.Writer { return &writer{to: to} }

type writer struct {
	to   io.Writer
	mu   sync.Mutex
	held []byte // the beginning of a character
}

func (w *writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := slices.Concat(w.held, p)
	whole := len(text) - unfinished(text)
	w.held = bytes.Clone(text[whole:])
	if whole == 0 {
		return len(p), nil
	}
	if _, err := io.WriteString(w.to, Lines(string(text[:whole]))); err != nil {
		return 0, err
	}
	return len(p), nil
}

// unfinished is how many bytes at the end of p are the beginning of a character.
func unfinished(p []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(p); n++ {
		if last := p[len(p)-n:]; utf8.RuneStart(last[0]) {
			if utf8.FullRune(last) {
				return 0
			}
			return n
		}
	}
	return 0
}
