package testenv

import (
	"testing"
	"time"
)

// Patience is how long a test waits for what has to come, on a machine that
// has much else to do. As a rule it comes at once.
const Patience = time.Minute

// Await waits until ok, and fails the test where that takes longer than Patience.
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
