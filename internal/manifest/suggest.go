package manifest

import (
	"slices"
	"strings"
)

// suggest says which known word somebody may have meant who wrote word.
func suggest(word string, known []string) string {
	apart := func(k string) int { return distance(strings.ToLower(word), k) }
	near := slices.MinFunc(known, func(a, b string) int { return apart(a) - apart(b) })
	if apart(near) > min(2, len(near)/2) {
		return "known are " + strings.Join(known, ", ")
	}
	return "did you mean " + near + "?"
}

// distance is Levenshtein's: how many letters to insert, delete or replace
// make b of a.
func distance(a, b string) int {
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
