package testenv

import (
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// settle is how long released resources may take to be gone, on a busy machine.
const settle = 30 * time.Second

// Main runs a package's tests, and fails if goroutines are left after them.
// goleak.VerifyTestMain, which it is like, waits for half a second only.
func Main(m *testing.M, options ...goleak.Option) {
	code := m.Run()
	removePorthole()
	if code == 0 {
		if err := goroutinesLeft(options...); err != nil {
			fmt.Fprintln(os.Stderr, "goroutines left behind:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// NoGoroutines checks, when the test and the cleanups registered after this
// call are over, that none of its goroutines are left. NoLeaks checks more, on Linux.
func NoGoroutines(t testing.TB) {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() {
		if err := goroutinesLeft(before); err != nil {
			t.Error("goroutines left behind:", err)
		}
	})
}

func goroutinesLeft(options ...goleak.Option) (err error) {
	within(settle, func() bool { err = goleak.Find(options...); return err == nil })
	return err
}
