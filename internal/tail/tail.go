// Package tail keeps the end of what a program prints, for the error that says why it has failed.
// It must not know the program.
package tail

import (
	"strings"
	"sync"
)

// max is how many bytes are kept.
const max = 2 << 10

// Tail is an io.Writer that keeps the last 2 KiB of what was written to it. The zero value works; its methods are
// safe to call at the same time.
type Tail struct {
	mu   sync.Mutex
	text []byte
}

// Write implements io.Writer. It never fails.
func (t *Tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p[keepFrom(p):]...)
	t.text = t.text[keepFrom(t.text):]
	return len(p), nil
}

// keepFrom is where the part begins that is kept.
func keepFrom(p []byte) int {
	if len(p) > max {
		return len(p) - max
	}
	return 0
}

// String returns what is kept, as text, without white space around it.
func (t *Tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(strings.ToValidUTF8(string(t.text), ""))
}

// LastLine returns the last line of what is kept.
func (t *Tail) LastLine() string {
	all := t.String()
	return all[strings.LastIndexByte(all, '\n')+1:]
}
