package netns

import "testing"

// Whatever the kernel says, it is read within its bounds.
func FuzzParseSocket(f *testing.F) {
	f.Add(append([]byte{2, 10}, make([]byte, 70)...))
	f.Add(append([]byte{10, 7}, make([]byte, 70)...))
	f.Add(append(append([]byte{1, 1, 10}, make([]byte, 13)...), 12, 0, 0, 0, '/', 'a', '.', 's', 'o', 'c', 'k', 0))
	f.Fuzz(func(t *testing.T, message []byte) {
		if s, ok := parseSocket(message); ok && (s.Path == "") == (s.Port() == 0) {
			t.Errorf("read as %+v", s)
		}
	})
}
