package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
	"go.yaml.in/yaml/v4/plugin/loaderlimits"
)

const (
	maxSize  = 1 << 20 // of a file, in bytes
	maxDepth = 50      // of values in values: a manifest needs 4
)

// parse reads the only document of text. Its Error has no File.
func parse(text []byte) (root *yaml.Node, fault *Error) {
	if len(text) > maxSize {
		return nil, &Error{Line: 1, Err: errors.New("the file is larger than 1 MiB")}
	}
	if i := invalidUTF8(text); i >= 0 {
		return nil, faultAt(text[:i], "this is not UTF-8 text")
	}
	loader, err := yaml.NewLoader(bytes.NewReader(text), yaml.WithPlugin(loaderlimits.New(loaderlimits.DepthValue(maxDepth))))
	if err != nil {
		return nil, &Error{Line: 1, Err: err}
	}
	var document, second yaml.Node
	switch err := loader.Load(&document); {
	case errors.Is(err, io.EOF):
		return nil, &Error{Line: 1, Err: errors.New("the file is empty: want forwards")}
	case err != nil:
		return nil, faultOf(err, text)
	}
	switch err := loader.Load(&second); {
	case err == nil:
		return nil, &Error{Line: second.Line, Column: second.Column,
			Err: errors.New("a second document begins here: a file has one")}
	case !errors.Is(err, io.EOF):
		return nil, faultOf(err, text)
	}
	return document.Content[0], nil
}

// invalidUTF8 returns the offset of the first byte that is not UTF-8, or -1.
func invalidUTF8(text []byte) int {
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRune(text[i:])
		if r == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return -1
}

// faultOf converts an error of the YAML library and finds its place. The library reports
// what is not closed at the end of the text; the error gets the place where that begins.
func faultOf(err error, text []byte) *Error {
	e, ok := errors.AsType[*yaml.LoadError](err)
	if !ok {
		return &Error{Line: 1, Err: fmt.Errorf("not YAML: %w", err)}
	}
	message := "not YAML: " + e.Message
	if e.ContextMsg != "" {
		message += " " + e.ContextMsg
	}
	if e.Mark.Line == 0 { // a wrong character, of which only the offset is known
		return faultAt(text[:min(max(e.Mark.Index, 0), len(text))], message)
	}
	mark, last := e.Mark, lastLine(text)
	if mark.Line > last && e.ContextMark.Line > 0 {
		mark = e.ContextMark
	}
	if mark.Line > last {
		return &Error{Line: last, Err: errors.New(message)}
	}
	return &Error{Line: mark.Line, Column: mark.Column, Err: errors.New(message)}
}

// lastLine returns the number of the last line that is not empty.
func lastLine(text []byte) int {
	return faultAt(bytes.TrimRightFunc(text, unicode.IsSpace), "").Line
}

// faultAt returns an error at the character after the text before.
func faultAt(before []byte, message string) *Error {
	// To the library all of these end a line, as in YAML 1.1.
	lines := strings.NewReplacer("\r\n", "\n", "\r", "\n", "\u0085", "\n", "\u2028", "\n", "\u2029", "\n", "\ufeff", "")
	text := lines.Replace(string(before))
	last := text[strings.LastIndexByte(text, '\n')+1:]
	return &Error{Line: 1 + strings.Count(text, "\n"), Column: 1 + utf8.RuneCountInString(last), Err: errors.New(message)}
}
