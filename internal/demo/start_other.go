//go:build !linux

package demo

import "context"

// Start fails with [ErrUnsupported]: this system has no namespaces.
func Start(context.Context, Config) (*Pod, error) { return nil, ErrUnsupported }

// Init fails with [ErrUnsupported]: this system has no namespaces.
func Init() error { return ErrUnsupported }

func defaultStateDir() string { return "" }
