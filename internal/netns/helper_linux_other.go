//go:build linux && !amd64 && !arm64

package netns

// helperProgram is not compiled for this processor: an installed one may be.
var helperProgram []byte
