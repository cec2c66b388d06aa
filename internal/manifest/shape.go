package manifest

import (
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"porthole.dev/porthole/internal/spelling"
)

const (
	// maxValues bounds the work that a file can ask for by using aliases to
	// lists of aliases.
	maxValues = 100_000
	maxText   = 4096 // of one value, in bytes: the longest path
)

// text reads a string that is not empty. It returns "" after an error, and if v is not given.
func (d *decoder) text(v value, key string) string {
	switch {
	case !v.given():
		return ""
	case v.needsQuotes():
		d.failf(v, "%s: want text, not %s: put it in quotes", key, v.kind())
	case !v.isText():
		d.failf(v, "%s: want text, not %s", key, v.kind())
	case v.node.Value == "":
		d.failf(v, "%s: the text is empty", key)
	case len(v.node.Value) > maxText:
		d.failf(v, "%s: the text is longer than %d bytes", key, maxText)
	default:
		return v.node.Value
	}
	return ""
}

func (d *decoder) boolean(v value, key string) bool {
	if !v.given() {
		return false
	}
	is, ok := v.boolean()
	if !ok {
		d.failf(v, "%s: want true or false, not %s", key, v.kind())
	}
	return is
}

// list returns the items of a list that is not empty.
func (d *decoder) list(v value, key string) (items []value) {
	switch {
	case !v.given():
		return nil
	case v.node.Kind != yaml.SequenceNode:
		d.failf(v, "%s: want a list, not %s", key, v.kind())
		return nil
	case len(v.node.Content) == 0:
		d.failf(v, "%s: the list is empty", key)
		return nil
	}
	if !d.withinLimit(v) {
		return nil
	}
	for _, n := range v.node.Content {
		items = append(items, v.part(n))
	}
	return items
}

// fields returns the values of a mapping by their keys, without those of unknown keys.
func (d *decoder) fields(v value, what string, known []string, required ...string) map[string]value {
	if v.node.Kind != yaml.MappingNode {
		d.failf(v, "%s: want a mapping with %s, not %s", what, strings.Join(required, " and "), v.kind())
		return nil
	}
	if !d.withinLimit(v) {
		return nil
	}
	fields := map[string]value{}
	meant := map[string]bool{} // the keys that mistyped ones stand for
	for pair := range slices.Chunk(v.node.Content, 2) {
		key, val := v.part(pair[0]), v.part(pair[1])
		if d.key(key, known, fields) {
			fields[key.node.Value] = val
		} else if near, ok := spelling.Nearest(clip(key.node.Value), known); ok {
			meant[near] = true
		}
	}
	for _, key := range required {
		if _, ok := fields[key]; !ok && !meant[key] {
			d.failf(v, "%s has no %s", what, key)
		}
	}
	return fields
}

// key reports whether a mapping's key is known, and was not used before in the mapping.
func (d *decoder) key(key value, known []string, before map[string]value) bool {
	text := key.node.Value
	switch {
	case key.node.Kind == yaml.ScalarNode && key.node.ShortTag() == "!!merge":
		d.failf(key, "merge keys are not supported: write the keys out")
	case !key.isText():
		d.failf(key, "want a key, one of %s, not %s", strings.Join(known, ", "), key.kind())
	case !slices.Contains(known, text):
		d.failf(key, "unknown key %q: %s", clip(text), suggest(clip(text), known))
	case before[text].given():
		d.failf(key, "%s is given twice, first on line %d", text, before[text].line)
	default:
		return true
	}
	return false
}

// withinLimit counts the parts of v, and reports whether they may be read.
func (d *decoder) withinLimit(v value) bool {
	if d.values > maxValues {
		return false // the error is reported already
	}
	d.values += len(v.node.Content)
	if d.values > maxValues {
		d.failf(v, "the file has more than %d values, counting those of aliases at each use", maxValues)
	}
	return d.values <= maxValues
}

// keysOf returns the keys that the fields of T are tagged with.
func keysOf[T any]() (keys []string) {
	for field := range reflect.TypeFor[T]().Fields() {
		if key := field.Tag.Get("yaml"); key != "-" {
			keys = append(keys, key)
		}
	}
	return keys
}

// suggest says which known word is most like word, or else lists all of them.
func suggest(word string, known []string) string {
	if near, ok := spelling.Nearest(word, known); ok {
		return "did you mean " + near + "?"
	}
	return "known are " + strings.Join(known, ", ")
}
