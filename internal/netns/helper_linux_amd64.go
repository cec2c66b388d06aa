package netns

import _ "embed"

//go:embed enter/enter_amd64
var helperProgram []byte
