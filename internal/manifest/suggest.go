package manifest

import (
	"strings"

	"porthole.dev/porthole/internal/spelling"
)

// suggest says which known word is most like word, or else lists all of them.
func suggest(word string, known []string) string {
	if near, ok := spelling.Nearest(word, known); ok {
		return "did you mean " + near + "?"
	}
	return "known are " + strings.Join(known, ", ")
}
