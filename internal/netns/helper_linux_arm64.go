package netns

import _ "embed"

//go:embed enter/enter_arm64
var helperProgram []byte
