package manifest_test

import (
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"

	"porthole.dev/porthole/internal/manifest"
	"porthole.dev/porthole/internal/target"
)

// root is the repository's.
const root = "../.."

func compile(t *testing.T) *jsonschema.Schema {
	t.Helper()
	compiler := jsonschema.NewCompiler()
	compiler.AssertVocabs()
	schema, err := compiler.Compile(filepath.Join(root, "docs/forwards.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	if schema.DraftVersion != 2020 {
		t.Errorf("the schema is of draft %d, want 2020", schema.DraftVersion)
	}
	return schema
}

// validate holds a text against the schema, as an editor does.
func validate(schema *jsonschema.Schema, text string) error {
	var document any
	if err := yaml.Load([]byte(text), &document); err != nil {
		return err
	}
	return schema.Validate(document)
}

// TestSchemaHasTheKeys holds that the schema and the structs have the same keys of the same types.
func TestSchemaHasTheKeys(t *testing.T) {
	top := compile(t)
	sameKeys(t, top, reflect.TypeFor[manifest.Manifest]())
	sameKeys(t, top.Properties["forwards"].Items2020.Ref, reflect.TypeFor[target.Forward]())
}

func sameKeys(t *testing.T, schema *jsonschema.Schema, of reflect.Type) {
	t.Helper()
	var keys []string
	for field := range of.Fields() {
		key := field.Tag.Get("yaml")
		if key == "-" {
			continue
		}
		keys = append(keys, key)
		if property := schema.Properties[key]; property == nil {
			t.Errorf("the schema lacks %s of %v", key, of)
		} else if got, want := property.Types.String(), typeOf(field.Type); got != want {
			t.Errorf("the schema has %s for %s, want %s", got, key, want)
		}
	}
	for key := range maps.Keys(schema.Properties) {
		if !slices.Contains(keys, key) {
			t.Errorf("the schema has %s, and %v has not", key, of)
		}
	}
	if schema.AdditionalProperties != false {
		t.Errorf("the schema lets %v have other keys", of)
	}
}

// typeOf is how the schema calls a field's type, in the brackets of a set.
func typeOf(field reflect.Type) string {
	switch field.Kind() {
	case reflect.Bool:
		return "[boolean]"
	case reflect.Slice:
		return "[array]"
	default: // target.Target is written as text
		return "[string]"
	}
}

// TestSchemaAsksForTheSameKeys holds that Read misses what the schema requires, and nothing else.
func TestSchemaAsksForTheSameKeys(t *testing.T) {
	top := compile(t)
	if !slices.Equal(top.Required, []string{"forwards"}) {
		t.Errorf("the schema requires %q of a file", top.Required)
	}
	forward := top.Properties["forwards"].Items2020.Ref
	sample := map[string]any{"name": "db", "target": "svc/db", "context": "c", "namespace": "n",
		"ports": []any{80}, "address": []any{"localhost"}, "pin": false, "each": "ports", "via": "agent", "container": "db"}
	for key := range forward.Properties {
		if slices.Contains([]string{"host", "engineContext", "all", "except"}, key) { // not with a cluster; tests of their own have them
			continue
		}
		if sample[key] == nil {
			t.Fatalf("%s has no sample", key)
		}
		without := maps.Clone(sample)
		delete(without, key)
		text, err := yaml.Dump(map[string]any{"forwards": []any{without}})
		if err != nil {
			t.Fatal(err)
		}
		_, err = read(string(text))
		if refused := validate(top, string(text)); (refused != nil) != (err != nil) {
			t.Errorf("without %s: %v, and the schema says %v", key, err, refused)
		}
	}
}

// TestSchemaAgrees holds that the schema takes what Read takes, and refuses what Read refuses for its shape.
func TestSchemaAgrees(t *testing.T) {
	schema := compile(t)
	for name, text := range accepted() {
		if name == "a date as text" {
			continue // a time to the library that reads it here
		}
		if err := validate(schema, text); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, c := range wrongShapes() {
		if err := validate(schema, c.text); err == nil && !c.lax {
			t.Errorf("%s: the schema takes it", c.name)
		}
	}
}

// TestSchemaExamples holds that what the schema gives as examples and defaults is right.
func TestSchemaExamples(t *testing.T) {
	forward := compile(t).Properties["forwards"].Items2020.Ref
	base := map[string]any{"target": "a", "ports": []any{9}}
	try := func(key string, value any) {
		t.Helper()
		with := maps.Clone(base)
		with[key] = value
		if key == "host" {
			with["target"] = "pid://1"
		}
		if key == "engineContext" {
			with["target"] = "docker://a"
		}
		if key == "except" {
			with["target"], with["all"] = "pid://1", true
			delete(with, "ports")
		}
		text, err := yaml.Dump(map[string]any{"forwards": []any{with}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := read(string(text)); err != nil {
			t.Errorf("%s: %v: %v", key, value, err)
		}
	}
	for key, property := range forward.Properties {
		for _, example := range property.Examples {
			try(key, example)
		}
		if property.Default != nil {
			try(key, *property.Default)
		}
		if property.Items2020 != nil {
			for _, example := range property.Items2020.Ref.Examples {
				try(key, []any{example})
			}
		}
	}
}

// TestDocs holds that the examples in the documentation are right, and lead editors to the schema.
func TestDocs(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "docs/manifest.md"))
	if err != nil {
		t.Fatal(err)
	}
	schema := compile(t)
	examples := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	if len(examples) == 0 {
		t.Error("no examples")
	}
	for _, example := range examples {
		if _, err := read(example[1]); err != nil {
			t.Error(err)
		}
		if err := validate(schema, example[1]); err != nil {
			t.Error(err)
		}
		first, _, _ := strings.Cut(example[1], "\n")
		path, ok := strings.CutPrefix(first, "# yaml-language-server: $schema=")
		if _, err := os.Stat(filepath.Join(root, path)); !ok || err != nil {
			t.Errorf("%q leads to no schema: %v", first, err)
		}
	}
}

// TestDocsErrors holds that the errors which the documentation cites are those that people get.
func TestDocsErrors(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "docs/manifest.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, got := read("forwards:\n  - target: pid://1\n    port: [80]\n    ports: [8080]\n\n\n\n  - target: a\n    ports: [8080]\n")
	if got == nil || !strings.Contains(string(text), "```\n"+got.Error()+"\n```") {
		t.Errorf("the documentation lacks\n%v", got)
	}
}
