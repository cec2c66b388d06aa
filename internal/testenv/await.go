package testenv

import (
	"testing"
	"time"
)

// Patience is how long a test waits for what must happen, on a busy machine. It mostly
// happens at once.
const Patience = time.Minute

// Await waits until ok is true, and fails the test if that takes longer than Patience.
func Await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	if !within(Patience, ok) {
		t.Fatalf("after %v still not: %s", Patience, what)
	}
}

// within tries ok until it holds or d is over.
func within(d time.Duration, ok func() bool) bool {
	for end := time.Now().Add(d); ; time.Sleep(5 * time.Millisecond) {
		if ok() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}
