package manifest

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
)

// Error is one thing that is wrong with a file, and where.
type Error struct {
	File   string
	Line   int // from 1
	Column int // from 1, in characters; 0 for the line as a whole
	Err    error
}

// Error puts the place first, in the form that editors recognize.
func (e *Error) Error() string {
	if e.Column == 0 {
		return fmt.Sprintf("%s:%d: %v", e.File, e.Line, e.Err)
	}
	return fmt.Sprintf("%s:%d:%d: %v", e.File, e.Line, e.Column, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// maxErrors is how many errors are reported at once.
const maxErrors = 20

// join sorts errors by their place and joins them. If there are too many, the last one
// says so.
func join(all []*Error) error {
	slices.SortStableFunc(all, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	var errs []error
	for i, e := range all {
		if left := len(all) - i; len(errs) == maxErrors-1 && left > 1 {
			more := fmt.Errorf("and %d more errors from here on", left)
			errs = append(errs, &Error{File: e.File, Line: e.Line, Column: e.Column, Err: more})
			break
		}
		errs = append(errs, e)
	}
	return errors.Join(errs...)
}
