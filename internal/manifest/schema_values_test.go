package manifest_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"porthole.dev/porthole/internal/target"
)

// forwardSchema is the schema of one forward.
func forwardSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	return compile(t).Properties["forwards"].Items2020.Ref
}

// with is a file with one forward, which has one more key.
func with(key, value string) string {
	keys := map[string]string{"target": "a", "ports": "[80]"}
	keys[key] = value
	if key == "engineContext" { // which a cluster's targets do not have
		keys["target"] = "docker://a"
	}
	var fields []string
	for key, value := range keys {
		fields = append(fields, key+": "+value)
	}
	return "forwards: [{" + strings.Join(fields, ", ") + "}]"
}

// same fails the test where one of the schema and Read takes a text, and the other refuses it.
func same(t *testing.T, schema *jsonschema.Schema, text string) {
	t.Helper()
	_, err := read(text)
	if refused := validate(schema, text); (refused == nil) != (err == nil) {
		t.Errorf("%q: the schema says %v, and Read %v", text, refused, err)
	}
}

// TestSchemaHasTheTypes holds that the schema and Read take values of the same types everywhere,
// and refuse the same empty ones.
func TestSchemaHasTheTypes(t *testing.T) {
	schema := compile(t)
	values := []string{"null", "true", "false", "-1", "0", "1", "1.5", "''", "localhost", "'1'", "[]", "[null]", "[true]",
		"[-1]", "[0]", "[1]", "[65535]", "[1.5]", "['']", "['1']", "[localhost]", "['::']", "[[]]", "[[1]]", "[{}]", "[1, {}]", "[localhost, null]", "{}", "{a: b}"}
	for _, value := range values {
		same(t, schema, value)
		same(t, schema, "forwards: "+value)
		for key := range forwardSchema(t).Properties {
			if value == "['1']" && key == "address" {
				continue // text that is no address, which the schema does not tell
			}
			same(t, schema, with(key, value))
		}
		same(t, schema, with("unknown", value))
		same(t, schema, "{forwards: [{target: a, ports: [80]}], unknown: "+value+"}")
	}
	if err := validate(schema, with("ports", "[65536]")); err == nil {
		t.Error("the schema takes port 65536")
	}
}

// TestSchemaHasTheNames holds that the schema's patterns of names are those of Read.
func TestSchemaHasTheNames(t *testing.T) {
	schema := compile(t)
	letters := []string{"a", "0", "-", "A", "_", "\n", "é"}
	texts := []string{"z", "9", "Z", "/", ":", "`", "{", ".", " ", strings.Repeat("a", 63), strings.Repeat("a", 64), strings.Repeat("é", 32), "a-" + strings.Repeat("0", 61), "a" + strings.Repeat("-", 62)}
	for _, a := range letters {
		for _, b := range append(letters, "") {
			for _, c := range append(letters, "") {
				texts = append(texts, a+b+c)
			}
		}
	}
	for key, property := range forwardSchema(t).Properties {
		if property.Pattern == nil {
			continue
		}
		for _, text := range texts {
			same(t, schema, with(key, quote(t, text)))
		}
	}
}

// ofValues are the errors of Read about numbers, names, hosts and addresses in a port whose form is right.
var ofValues = regexp.MustCompile(`: (address ".+": neither|"[^" /]+" is not a host|"[0-9a-z-]+" is not a number|\d+ to listen on and \d+ to connect to|one Unix socket|a Unix socket|the remote port is 0)`)

// TestSchemaHasTheFormOfPorts holds that the schema takes every port that Read takes, and no other form.
func TestSchemaHasTheFormOfPorts(t *testing.T) {
	port := forwardSchema(t).Properties["ports"].Items2020
	taken := 0
	for _, text := range portTexts() {
		_, err := read(with("ports", "["+quote(t, text)+"]"))
		refused := port.Validate(text)
		switch {
		case err == nil && refused != nil:
			t.Errorf("%q: the schema refuses what Read takes: %v", text, refused)
		case err != nil && refused == nil && !ofValues.MatchString(err.Error()):
			t.Errorf("%q: the schema takes what Read refuses: %v", text, err)
		case err != nil && !errors.Is(err, target.ErrPort) && !errors.Is(err, target.ErrAddress):
			t.Errorf("%q: %v", text, err)
		case err == nil:
			taken++
		}
	}
	if taken < 100 {
		t.Errorf("only %d of the texts were right", taken)
	}
}

// TestSchemaHasAll holds that the schema takes all and except where Read takes them, and ports elsewhere.
func TestSchemaHasAll(t *testing.T) {
	schema := compile(t)
	for _, all := range []string{"", ", all: true", ", all: false"} {
		for _, ports := range []string{"", ", ports: [80]"} {
			for _, except := range []string{"", ", except: [22]"} {
				same(t, schema, "forwards: [{target: 'pid://1'"+all+ports+except+"}]")
			}
		}
	}
	for _, except := range []string{"0", "1", "65535", "65536", "'0'", "'1'", "'1-2'", "'1-'", "'-2'", "a", "'1,2'", "' 1'", "'01'", "'1-2-3'", "''"} {
		same(t, schema, "forwards: [{target: 'pid://1', all: true, except: ["+except+"]}]")
	}
}

// TestSchemaHasTheFormOfHosts holds that the schema takes what Read takes, and refuses what is no URL of ssh.
func TestSchemaHasTheFormOfHosts(t *testing.T) {
	schema := compile(t)
	for _, text := range []string{"ssh://a", "ssh://me@a:22", "ssh://[::1]", "a", "me@a", "http://a", "ssh://", "ssh:a"} {
		same(t, schema, "forwards: [{target: pid://1, ports: [80], host: "+quote(t, text)+"}]")
	}
	if _, err := read(with("host", "ssh://a")); err == nil || !strings.Contains(err.Error(), "host is for pid://, netns:// and containers") {
		t.Errorf("a host with a cluster's target: %v", err)
	}
}

// TestContainers holds what goes with containers of engines, and with nothing else.
func TestContainers(t *testing.T) {
	schema := compile(t)
	for _, text := range []string{"colima", "", "Tcp-1"} {
		same(t, schema, "forwards: [{target: docker://web, via: native, ports: [80], engineContext: "+quote(t, text)+"}]")
	}
	for text, want := range map[string]string{
		"{target: docker://web, ports: [80], pin: true}":                                         "pin is for targets of Kubernetes",
		"{target: docker://web, ports: [80], via: stock}":                                        "want auto, native, agent",
		"{target: containerd://web, ports: [80], engineContext: a}":                              "has none",
		"{target: svc/web, ports: [80], engineContext: a}":                                       "engineContext is for docker:// and podman://",
		"{target: host://db, ports: [80], engineContext: a}":                                     "engineContext is for docker:// and podman://",
		"{target: 'pid://1', ports: [80], engineContext: a}":                                     "engineContext is for docker:// and podman://",
		"{target: docker://web, ports: [80], host: 'ssh://box', engineContext: a}":               "takes its own",
		"{target: docker://web, ports: [80], container: a}":                                      "container is for pods",
		"{target: cri://web, host: 'ssh://box', ports: ['1:/x.sock'], container: a}":             "for pods of this host only",
		"{target: cri://web, ports: ['1:/x.sock'], container: a}":                                "",
		"{target: docker://web, ports: [http]}":                                                  "port",
		"{target: podman://shop/web, ports: ['8080:80', '53/udp', ':/run/x.sock'], via: native}": "",
	} {
		_, err := read("forwards: [" + text + "]")
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// TestSchemaHasTheWords holds that the schema and Read take the same words.
func TestSchemaHasTheWords(t *testing.T) {
	schema := compile(t)
	for _, text := range append(target.Vias(), "ports", "addresses", "port", "Ports", "all", " ports", "Agent", " node") {
		same(t, schema, with("each", quote(t, text)))
		same(t, schema, with("via", quote(t, text)))
	}
}

// portTexts are up to four parts with colons between them.
func portTexts() (texts []string) {
	parts := []string{"", "80", "a-b", "HTTP", "8 0", "127.0.0.1", "[::1]", "1]", "80/tcp", "80-81/udp", "./a", "80-81"}
	before := []string{""}
	for range 3 {
		var next []string
		for _, b := range before {
			for _, part := range parts {
				texts, next = append(texts, b+part), append(next, b+part+":")
			}
		}
		before = next
	}
	for i := 0; i < len(before); i += 7 {
		texts = append(texts, before[i], before[i]+"80")
	}
	return texts
}

// quote writes a text as YAML and JSON have it.
func quote(t *testing.T, text string) string {
	t.Helper()
	quoted, err := json.Marshal(text)
	if err != nil {
		t.Fatal(err)
	}
	return string(quoted)
}

// TestSchemaHasTheDefaults holds that what the schema calls a default is what Read fills in.
func TestSchemaHasTheDefaults(t *testing.T) {
	want, err := read(with("target", "a"))
	if err != nil {
		t.Fatal(err)
	}
	for key, property := range forwardSchema(t).Properties {
		if property.Default == nil {
			continue
		}
		value, err := json.Marshal(*property.Default)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := read(with(key, string(value))); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %s: got %+v, %v, want %+v", key, value, got, err, want)
		}
	}
}

// compared are the keywords of the schema that the tests here compare with Read, whatever has them.
const compared = "$schema $defs $ref title description examples default type additionalProperties required properties items minItems minLength"

// comparedAt are further ones, where a test has values on both sides of them.
var comparedAt = map[string]string{
	"/$defs/forward/properties/name":      "maxLength pattern",
	"/$defs/forward/properties/namespace": "maxLength pattern",
	"/$defs/forward":                      "if then else",
	"/$defs/forward/if/properties/all":    "const",
	"/$defs/ports":                        "anyOf",
	"/$defs/ports/anyOf/0":                "minimum maximum",
	"/$defs/ports/anyOf/1":                "pattern",
	"/$defs/port":                         "anyOf",
	"/$defs/forward/properties/host":      "pattern",
	"/$defs/forward/properties/each":      "enum",
	"/$defs/forward/properties/via":       "enum",
	"/$defs/forward/properties/container": "maxLength pattern",
	"/$defs/port/anyOf/0":                 "minimum maximum",
	"/$defs/port/anyOf/1":                 "pattern",
}

// TestSchemaHasNoOtherRules holds that the tests here compare all that the schema says.
func TestSchemaHasNoOtherRules(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "docs/forwards.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	var schema any
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	onlyCompared(t, "", schema, true)
}

// onlyCompared walks part of the schema; keywords says that a mapping's keys are keywords there, not names.
func onlyCompared(t *testing.T, path string, part any, keywords bool) {
	t.Helper()
	switch part := part.(type) {
	case map[string]any:
		for key, value := range part {
			if keywords && !slices.Contains(strings.Fields(compared+" "+comparedAt[path]), key) {
				t.Errorf("%s: no test compares %s with Read", path, key)
			}
			onlyCompared(t, path+"/"+key, value, !keywords || key != "properties" && key != "$defs")
		}
	case []any:
		for i, value := range part {
			onlyCompared(t, fmt.Sprintf("%s/%d", path, i), value, true)
		}
	}
}

// TestDocsHaveTheKeys holds that the table of keys in the documentation is that of the schema.
func TestDocsHaveTheKeys(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "docs/manifest.md"))
	if err != nil {
		t.Fatal(err)
	}
	forward := forwardSchema(t)
	words := map[string]string{"[string]": "text", "[array]": "list", "[boolean]": "`true` or `false`"}
	got := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\| ([^|]+) \\|").FindAllStringSubmatch(string(text), -1) {
		got[row[1]] = strings.TrimSuffix(row[2], " of text")
	}
	want := map[string]string{}
	for key, property := range forward.Properties {
		want[key] = words[property.Types.String()]
		if slices.Contains(forward.Required, key) {
			want[key] += ", required"
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("the documentation has %q, and the schema %q", got, want)
	}
}
