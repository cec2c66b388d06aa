// Package spelling finds the known word that a mistyped one may stand for.
// It must not know what the words are for.
package spelling

import (
	"slices"
	"strings"
)

// Nearest returns the known word that is most like word, if there is one:
// two letters apart at most, and not more than half of them.
func Nearest(word string, known []string) (string, bool) {
	if len(known) == 0 {
		return "", false
	}
	apart := func(k string) int { return Distance(strings.ToLower(word), k) }
	near := slices.MinFunc(known, func(a, b string) int { return apart(a) - apart(b) })
	return near, apart(near) <= min(2, len(near)/2)
}

// Distance is Levenshtein's: how many letters to insert, delete or replace to make b of a.
func Distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
