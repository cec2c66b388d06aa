package main

import (
	"runtime"
	"testing"
)

// GOMAXPROCS in the environment decides how many processors are used.
func TestKeepToOneProcessor(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(before)
	t.Setenv("GOMAXPROCS", "2")
	keepToOneProcessor()
	if now := runtime.GOMAXPROCS(0); now != before {
		t.Errorf("%d processors, want %d as before", now, before)
	}
	t.Setenv("GOMAXPROCS", "")
	keepToOneProcessor()
	if now := runtime.GOMAXPROCS(0); now != 1 {
		t.Errorf("%d processors, want 1", now)
	}
}
