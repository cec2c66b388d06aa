// Package testenv gives tests real namespaces, ports and connections, and checks that they leave nothing behind.
// It must not be imported by anything but tests and the bench.
package testenv

import (
	"os"
	"testing"
)

// Strict names the environment variable that turns a skip into a failure.
const Strict = "PORTHOLE_STRICT"

// Lacking skips a test that needs something the machine does not have, or fails it if
// Strict is set: then every test has to run.
func Lacking(t testing.TB, what string) {
	t.Helper()
	if os.Getenv(Strict) != "" {
		t.Fatalf("this machine lacks %s, and %s forbids to skip", what, Strict)
	}
	t.Skipf("this machine lacks %s", what)
}

// Root lets a test run as root only.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Lacking(t, "root: making network namespaces takes CAP_SYS_ADMIN")
	}
}
