package forward

// lockDir does nothing: two portholes that make the same socket at the same time are not
// kept apart.
func lockDir(string) (unlock func(), err error) { return func() {}, nil }

// forbidOthers does nothing: who may connect is decided by the directory.
func forbidOthers() (restore func()) { return func() {} }
