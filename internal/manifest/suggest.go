package manifest

import (
	"strings"

	"porthole.dev/porthole/internal/spelling"
)

// suggest says which known word somebody may have meant who wrote word.
func suggest(word string, known []string) string {
	if near, ok := spelling.Nearest(word, known); ok {
		return "did you mean " + near + "?"
	}
	return "known are " + strings.Join(known, ", ")
}
