//go:build !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "bench: network namespaces, and so these measurements, need Linux")
	os.Exit(1)
}
