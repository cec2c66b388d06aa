package manifest_test

import (
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	"porthole.dev/porthole/internal/manifest"
	"porthole.dev/porthole/internal/target"
)

const file = "forwards.yaml"

func read(text string) (*manifest.Manifest, error) {
	return manifest.Read(strings.NewReader(text), file)
}

func TestRead(t *testing.T) {
	got, err := read(`
forwards:
  - name: db
    target: svc/db
    context: staging
    namespace: shop
    ports: ["5432", ":9090", 127.0.0.2:8080:80, 8081, "8082:http"]
    address: ["::1", 127.0.0.1]
    pin: true
  - target: pid://4947
    ports: [8080]
`)
	if err != nil {
		t.Fatal(err)
	}
	want := &manifest.Manifest{Forwards: []target.Forward{
		{
			Name: "db", Target: target.Target{Scheme: target.Kubernetes, Resource: "svc", Name: "db"},
			Context: "staging", Namespace: "shop", Addresses: []string{"::1", "127.0.0.1"}, Pin: true, Line: 3,
			Ports: []target.Port{
				{Local: 5432, Remote: 5432}, {Remote: 9090}, {Address: "127.0.0.2", Local: 8080, Remote: 80},
				{Local: 8081, Remote: 8081}, {Local: 8082, Name: "http"},
			},
		},
		{
			Target: target.Target{Scheme: target.PID, PID: 4947}, Addresses: []string{"localhost"}, Line: 10,
			Ports: []target.Port{{Local: 8080, Remote: 8080}},
		},
	}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// accepted are files that are as they should be.
func accepted() map[string]string {
	return map[string]string{
		"JSON":                  `{"forwards": [{"target": "a", "ports": [80]}]}`,
		"all ports":             `{"forwards": [{"target": "pid://1", "all": true, "except": [22, "9000-9010"]}]}`,
		"a byte order mark":     "\ufeffforwards: [{target: a, ports: [80]}]",
		"Windows' ends of line": "forwards:\r\n- target: a\r\n  ports: [80]\r\n",
		"one document, marked":  "---\nforwards: [{target: a, ports: [80]}]\n...\n",
		"the highest port":      one("ports: [65535]"),
		"a port with a zone":    one(`ports: ["[fe80::1%eth0]:1:2"]`),
		"any free port, twice":  one(`ports: [":80", "0:80"]`),
		"names of ports":        one("ports: [http, 'http-2:http-2', ':8-b']"),
		"a date as text":        one("ports: [80]\n  context: 2026-01-01"),
		"a quoted number":       one("ports: [80]\n  namespace: \"12\""),
		"pin, shouted":          one("ports: [80]\n  pin: TRUE"),
		"each pod's addresses":  one("ports: [80]\n  each: addresses") + "- {target: b, ports: [80]}\n",
		"each pod's ports":      one("ports: [80-82, ':http']\n  each: ports\n  pin: false"),
		"not pinned":            one("ports: [80]\n  pin: false"),
		"one port, two addresses": `
forwards:
- {target: a, ports: [80], address: [127.0.0.1]}
- {target: a, ports: [80], address: [127.0.0.2]}
- {target: a, ports: ["127.0.0.3:80:80"], address: [127.0.0.1]}
- {target: a, ports: [80], address: ["::"]}
`,
		"aliases": `
forwards:
- {target: &t a, ports: &p [&q 80, 81], address: [127.0.0.1]}
- {target: *t, ports: *p, address: [127.0.0.2]}
- {target: *t, ports: [*q], address: [127.0.0.3]}
`,
	}
}

// one is a file with one forward.
func one(rest string) string { return "forwards:\n- target: a\n  " + rest + "\n" }

func TestReadAccepts(t *testing.T) {
	for name, text := range accepted() {
		if _, err := read(text); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// rejected is a file and the errors that it gets, after the file's name and a colon.
type rejected struct {
	name, text string
	want       []string
	// lax: that is more than a schema can tell.
	lax bool
}

// wrongShapes are files whose keys or types are wrong.
func wrongShapes() []rejected {
	return []rejected{
		{name: "no mapping", text: "\n- 1\n", want: []string{"2:1: the file: want a mapping with forwards, not a list"}},
		{name: "text", text: "forwards", want: []string{`1:1: the file: want a mapping with forwards, not the text "forwards"`}},
		{name: "null", text: "---\n\n", want: []string{"1: the file: want a mapping with forwards, not nothing"}},
		{name: "no forwards", text: "{}", want: []string{"1:1: the file has no forwards"}},
		{name: "null forwards", text: "# none\nforwards:\n", want: []string{"2:10: forwards: want a list, not nothing"}},
		{name: "empty forwards", text: "forwards:\n\n  []\n", want: []string{"3:3: forwards: the list is empty"}},
		{name: "a mapping of forwards", text: "forwards:\n  db: 1\n", want: []string{"2:3: forwards: want a list, not a mapping"}},
		{name: "null forward", text: "forwards:\n-\n- a\n", want: []string{
			"2:2: a forward: want a mapping with target and ports, not nothing",
			`3:3: a forward: want a mapping with target and ports, not the text "a"`}},
		{name: "an empty forward", text: "forwards:\n- {}\n", want: []string{
			"2:3: a forward has no target", "2:3: a forward has no ports"}},
		{name: "no ports", text: "forwards:\n- name: x\n  target: a\n", want: []string{"2:3: a forward has no ports"}},
		{name: "unknown keys", text: one("ports: [80]\n  nam: x\n  Context: y\n  color: z"), want: []string{
			`4:3: unknown key "nam": did you mean name?`,
			`5:3: unknown key "Context": did you mean context?`,
			`6:3: unknown key "color": known are name, target, host, context, namespace, ports, all, except, address, pin, each, via, container, engineContext`}},
		{name: "unknown key at the top", text: "forward: []\n", want: []string{
			`1:1: unknown key "forward": did you mean forwards?`}},
		{name: "an empty key", text: one("ports: [80]\n  '': x"), want: []string{
			`4:3: unknown key "": known are name, target, host, context, namespace, ports, all, except, address, pin, each, via, container, engineContext`}},
		{name: "no text", text: "forwards:\n- target: 8\n  ports: [80]\n  name: true\n  context: [a]\n  namespace: {a: b}\n", want: []string{
			"2:11: target: want text, not the number 8: put it in quotes",
			"4:9: name: want text, not true: put it in quotes",
			"5:12: context: want text, not a list",
			"6:14: namespace: want text, not a mapping"}},
		{name: "null text", text: "forwards:\n- target:\n  ports: [80]\n  name: ~\n", want: []string{
			"2:10: target: want text, not nothing", "4:9: name: want text, not nothing"}},
		{name: "empty text", text: "forwards:\n- target: ''\n  ports: [80]\n  name: ''\n  context: ''\n  namespace: ''\n  address: ['']\n", want: []string{
			"2:11: target: the text is empty", "4:9: name: the text is empty", "5:12: context: the text is empty",
			"6:14: namespace: the text is empty", "7:13: address: the text is empty"}},
		{name: "all", text: "forwards:\n- {target: 'pid://1', all: true, ports: [80]}\n- {target: 'pid://1', except: [80], ports: [81]}\n- {target: 'pid://1', all: false}\n", want: []string{
			"2:41: ports are all ports where all is true: all takes a target of a host, and no ports",
			"3:31: except is what all leaves out: all takes a target of a host, and no ports",
			"4:3: a forward has no ports"}},
		{name: "all of a cluster", text: "forwards:\n- {target: a, all: true}\n", lax: true, want: []string{
			"2:20: all: what listens at pod/a is not watched: all takes a target of a host, and no ports"}},
		{name: "except", text: "forwards:\n- {target: 'pid://1', all: true, except: [0, a, 8-7, '1,2', [1]]}\n", lax: true, want: []string{
			`2:43: except: want a port such as 22 or "9000-9010", not the number 0`,
			`2:46: except: ports "a": "a": not a list of ports`,
			`2:49: except: ports "8-7": "8-7": not a list of ports`,
			`2:54: except: "1,2": not a list of ports`,
			`2:61: except: want a port such as 22 or "9000-9010", not a list`}},
		{name: "pin", text: one("ports: [80]\n  pin: yes"), want: []string{`4:8: pin: want true or false, not the text "yes"`}},
		{name: "quoted pin", text: one("ports: [80]\n  pin: 'true'"), want: []string{`4:8: pin: want true or false, not the text "true"`}},
		{name: "one port", text: one("ports: 8080"), want: []string{"3:10: ports: want a list, not the number 8080"}},
		{name: "one address", text: one("ports: [80]\n  address: localhost"), want: []string{
			`4:12: address: want a list, not the text "localhost"`}},
		{name: "empty lists", text: one("ports: []\n  address: []"), want: []string{
			"3:10: ports: the list is empty", "4:12: address: the list is empty"}},
		{name: "address of another type", text: one("ports: [80]\n  address: [1]"), want: []string{
			"4:13: address: want text, not the number 1: put it in quotes"}},
		{name: "ports of another type", text: one("ports:\n  - 80.5\n  - true\n  -\n  - [80]\n  - {80: 80}"), want: []string{
			`4:5: want a port such as 8080 or "8080:80", not the number 80.5`,
			`5:5: want a port such as 8080 or "8080:80", not true`,
			`6:4: want a port such as 8080 or "8080:80", not nothing`,
			`7:5: want a port such as 8080 or "8080:80", not a list`,
			`8:5: want a port such as 8080 or "8080:80", not a mapping`}},
		{name: "ports without quotes", text: one("ports: [[::1]:8080:80]"), want: []string{
			`3:11: want a port such as 8080 or "8080:80", not a mapping`}},
		{name: "port 0", text: one("ports: [0]"), want: []string{
			`3:11: want a port such as 8080 or "8080:80", not the number 0`}},
		{name: "a port too high", text: one("ports: [65536]"), want: []string{
			`3:11: port "65536": 65536 is out of range, ports end at 65535: not a port`}},
		{name: "numbers that are no port", text: one("ports: [-1, 99999999999999999999]"), want: []string{
			`3:11: want a port such as 8080 or "8080:80", not the number -1`,
			`3:15: want a port such as 8080 or "8080:80", not the number 99999999999999999999`}},
		{name: "ranges", text: one(`ports: ["8010-8000", "1-1025", "1-2:1-3", "./x.sock:1-2"]`), lax: true, want: []string{
			`3:11: port "8010-8000": the range 8010-8000 goes backwards: not a port`,
			`3:24: port "1-1025": the range 1-1025 has 1025 ports, of 1024 at most: not a port`,
			`3:34: port "1-2:1-3": 2 to listen on and 3 to connect to, want as many of each: not a port`,
			`3:45: port "./x.sock:1-2": one Unix socket cannot stand for 2 ports: not a port`}},
		{name: "too many ports", text: one("ports: [" + strings.Repeat("':1-1024', ", 12) + "80]"), lax: true, want: []string{
			"3:110: there are more than 10000 ports"}},
		{name: "taken local ports and sockets", text: one(`ports: ["53/udp", "53:80", "50-60:50-60/udp", "./x.sock:80", "x/../x.sock:80", "./y/../x.sock:81"]`), want: []string{
			`3:30: local port 127.0.0.1:53 is taken on line 3`,
			`3:64: port "x/../x.sock:80": "x/../x.sock" is not a number: not a port`,
			`3:82: local socket ./y/../x.sock is taken on line 3`}},
		{name: "numbers that are not plain", text: one("ports: [0700, 0x50, 1_0]"), lax: true, want: []string{
			`3:11: want a port such as 8080 or "8080:80", not the number 0700`,
			`3:17: want a port such as 8080 or "8080:80", not the number 0x50`,
			`3:23: want a port such as 8080 or "8080:80", not the number 1_0`}},
		{name: "ports in a wrong form", text: one("ports: ['', ':', 'a b', '1:2:3:4', HTTP, '[::1]:80', '80 ']"), want: []string{
			`3:11: port "": "" is not a number: not a port`,
			`3:15: port ":": the remote port is missing: not a port`,
			`3:20: port "a b": "a b" is not a number: not a port`,
			`3:27: port "1:2:3:4": address "1": neither an IP address nor localhost`,
			`3:38: port "HTTP": "HTTP" is not a number: not a port`,
			`3:44: port "[::1]:80": want [[ADDRESS:]LOCAL:]REMOTE: not a port`,
			`3:56: port "80 ": "80 " is not a number: not a port`}},
		{name: "names", text: "forwards:\n- {name: DB, target: a, ports: [1]}\n- {name: 5432-a, target: a, ports: [2]}\n- {name: b-, target: a, ports: [3]}\n", want: []string{
			`2:10: name "DB": want a lower-case letter, then lower-case letters, digits and dashes, 63 at most`,
			`3:10: name "5432-a": want a lower-case letter, then lower-case letters, digits and dashes, 63 at most`,
			`4:10: name "b-": want a lower-case letter, then lower-case letters, digits and dashes, 63 at most`}},
		{name: "a long name", text: one("ports: [80]\n  name: " + strings.Repeat("a", 64)), want: []string{
			`4:9: name "` + strings.Repeat("a", 40) + `...": want a lower-case letter, then lower-case letters, digits and dashes, 63 at most`}},
		{name: "namespace", text: one("ports: [80]\n  namespace: a_b"), want: []string{
			`4:14: namespace "a_b": want lower-case letters, digits and dashes between them, 63 at most`}},
	}
}

// wrongValues are files of the right shape with values that are wrong, or do not go together.
func wrongValues() []rejected {
	return []rejected{
		{name: "targets", text: "forwards:\n- target: ftp://x\n  ports: [80]\n- target: pid://0\n  ports: [81]\n", want: []string{
			`2:11: target "ftp://x": unknown form of target`,
			`4:11: target "pid://0": "0" is not a process number`}},
		{name: "a long text", text: one("ports: [80]\n  context: " + strings.Repeat("a", 4097)), want: []string{
			"4:12: context: the text is longer than 4096 bytes"}},
		{name: "a long port", text: one("ports: [" + strings.Repeat("a", 4097) + "]"), want: []string{
			`3:11: want a port such as 8080 or "8080:80", not the text "` + strings.Repeat("a", 40) + `..."`}},
		{name: "addresses", text: one("ports: ['example.com:8080:80']\n  address: [example.com, '127.1']"), want: []string{
			`3:11: port "example.com:8080:80": address "example.com": neither an IP address nor localhost`,
			`4:13: address "example.com": neither an IP address nor localhost`,
			`4:26: address "127.1": neither an IP address nor localhost`}},
		{name: "an address twice", text: one("ports: [80]\n  address: [localhost, '::ffff:127.0.0.1']"), want: []string{
			"4:24: address 127.0.0.1 is covered already on line 4"}},
		{name: "an address and all", text: one("ports: [80]\n  address:\n  - 127.0.0.2\n  - 0.0.0.0\n  - '::'\n  - ::1"), want: []string{
			"6:5: address 0.0.0.0 is covered already on line 5",
			"8:5: address ::1 is covered already on line 7"}},
		{name: "what another host chooses", text: "forwards:\n- target: cri://web\n  host: ssh://box\n  container: db\n  ports: [80]\n- target: docker://web\n  host: ssh://box\n  via: native\n  ports: [81]\n", want: []string{
			`4:14: container db: porthole on ssh://box looks in all containers of cri://web: a pod's container can be named for pods of this host only`,
			`8:8: via native: porthole on ssh://box chooses what carries connections there: want auto`}, lax: true},
		{name: "what only Kubernetes has", text: "forwards:\n- target: pid://1\n  ports: [http]\n  context: a\n  namespace: b\n  pin: false\n", want: []string{
			`3:11: port "http": "http" is not a number: not a port`,
			`4:12: context is for targets of Kubernetes, which "pid://1" is not`,
			`5:14: namespace is for targets of Kubernetes, which "pid://1" is not`,
			`6:8: pin is for targets of Kubernetes, which "pid://1" is not`}},
		{name: "what a remote host cannot have", text: "forwards:\n- target: host://db\n  ports: [http, '1:other:2', '3:/run/x.sock']\n  context: a\n  namespace: b\n  each: ports\n  host: ssh://box\n  via: node\n", want: []string{
			`3:11: port "http": "http" is not a number: not a port`,
			`3:17: port "1:other:2": host://db is one host, and host://other another target: not a port`,
			`3:30: port "3:/run/x.sock": a Unix socket of host://db cannot be reached: not a port`,
			`6:9: each is for pods of Kubernetes, which "host://db" is not`,
			`7:9: host is for pid://, netns:// and containers, which "host://db" is not`,
			"8:8: via node: host://db is no pod, and only a relay reaches it: want auto or relay"}, lax: true},
		{name: "what each pod cannot have", text: "forwards:\n- {target: a, each: all, ports: [1]}\n- {target: pid://1, each: ports, ports: [2]}\n" +
			"- {target: a, each: ports, ports: [./a.sock:3]}\n- {target: a, each: addresses, ports: [4], address: ['0.0.0.0']}\n", want: []string{
			`2:21: each: "all": want ports or addresses`,
			`3:27: each is for targets of Kubernetes, which "pid://1" is not`,
			"4:21: cannot forward to each pod: ./a.sock is one socket for all",
			"5:21: cannot forward to each pod: 0.0.0.0 is all addresses"}, lax: true},
		{name: "each and pin", text: one("ports: [80]\n  pin: true\n  each: ports"), want: []string{
			"5:9: cannot forward to each pod: pin stays with one"}, lax: true},
		{name: "the first addresses of each", text: "forwards:\n- {target: a, each: addresses, ports: [80]}\n- {target: b, address: [127.0.0.2], ports: [80]}\n", want: []string{
			"3:45: local port 127.0.0.2:80 is taken on line 2"}, lax: true},
		{name: "a name twice", text: "forwards:\n- {name: db, target: a, ports: [1]}\n- {name: db, target: a, ports: [2]}\n", want: []string{
			`3:10: name "db" is taken on line 2`}},
		{name: "a port twice", text: "forwards:\n- target: a\n  ports:\n  - 80\n  - 80:81\n- target: b\n  ports: [127.0.0.1:80:80]\n", want: []string{
			"5:5: local port 127.0.0.1:80 is taken on line 4",
			"7:11: local port 127.0.0.1:80 is taken on line 4"}},
		{name: "a port on all addresses", text: "forwards:\n- target: a\n  ports: [80]\n- target: b\n  ports: ['[::]:80:80']\n- target: c\n  ports: ['0.0.0.0:81:80']\n- target: d\n  ports: [81]\n", want: []string{
			"5:11: local port [::]:80 is taken on line 3",
			"9:11: local port 127.0.0.1:81 is taken on line 7"}},
		{name: "a port twice through an alias", text: "forwards:\n- target: a\n  ports: &p [80, 81]\n- target: b\n  ports: *p\n", want: []string{
			"5:10: local port 127.0.0.1:80 is taken on line 3",
			"5:10: local port 127.0.0.1:81 is taken on line 3"}},
	}
}

// wrongTexts are files that are not what YAML, or Read, takes for a text.
func wrongTexts() []rejected {
	bomb := "forwards:\n- &f\n  target: a\n  ports: [" + strings.Repeat("x,", 50000) + "]\n" + strings.Repeat("- *f\n", 90000)
	return []rejected{
		{name: "empty", text: "", want: []string{"1: the file is empty: want forwards"}},
		{name: "a comment", text: "\n# nothing\n", want: []string{"1: the file is empty: want forwards"}},
		{name: "unclosed list", text: "forwards: [1,\n2\n\n# end\n", want: []string{
			"1:11: not YAML: did not find expected ',' or ']' while parsing a flow sequence"}},
		{name: "unclosed quotes", text: "\nforwards: 'a\n\n", want: []string{
			"2:11: not YAML: found unexpected end of stream while scanning a quoted scalar"}},
		{name: "unclosed mapping", text: "{", want: []string{
			"1: not YAML: did not find expected node content while parsing a flow node"}},
		{name: "indentation", text: "forwards:\n  - target: a\n   ports: [80]\n", want: []string{
			"3:4: not YAML: did not find expected '-' indicator while parsing a block collection"}},
		{name: "tab", text: "forwards:\n\t- a\n", want: []string{
			"2:1: not YAML: found character that cannot start any token while scanning for the next token"}},
		{name: "unknown anchor", text: "forwards:\n  *f\n", want: []string{"2:3: not YAML: unknown anchor 'f' referenced"}},
		{name: "control character", text: "# é\r\n# é \x01\n", want: []string{
			"2:5: not YAML: control characters are not allowed (value: 1)"}},
		{name: "not UTF-8", text: "# é\n# é\xff\n", want: []string{"2:4: this is not UTF-8 text"}},
		{name: "UTF-16", text: "\xff\xfea\x00", want: []string{"1:1: this is not UTF-8 text"}},
		{name: "two documents", text: one("ports: [80]") + "---\n" + one("ports: [81]"), want: []string{
			"4:1: a second document begins here: a file has one"}},
		{name: "a broken second document", text: one("ports: [80]") + "---\n{]", want: []string{
			"5:2: not YAML: did not find expected node content while parsing a flow node"}},
		{name: "too deep", text: strings.Repeat("[", 1<<20), want: []string{
			"1:51: not YAML: exceeded max depth of 50 while increasing flow level"}},
		{name: "too large", text: strings.Repeat("#\n", 1<<19+1), want: []string{"1: the file is larger than 1 MiB"}},
		{name: "too many values", text: bomb, want: []string{
			"4:10: the file has more than 100000 values, counting those of aliases at each use"}},
		{name: "a list in itself", text: "forwards: &f [*f]\n", want: []string{
			"1:15: a forward: want a mapping with target and ports, not a list"}},
		{name: "a key twice", text: one("ports: [80]\n  target: b"), want: []string{"4:3: target is given twice, first on line 2"}},
		{name: "a merge key", text: one("ports: [80]\n  <<: {name: a}"), want: []string{
			"4:3: merge keys are not supported: write the keys out"}},
		{name: "keys of another type", text: one("ports: [80]\n  1: a\n  [b]: c"), want: []string{
			"4:3: want a key, one of name, target, host, context, namespace, ports, all, except, address, pin, each, via, container, engineContext, not the number 1",
			"5:3: want a key, one of name, target, host, context, namespace, ports, all, except, address, pin, each, via, container, engineContext, not a list"}},
		{name: "types of other programs", text: one("ports: [!port 80, !!binary aGk=]\n  pin: !!bool 1"), want: []string{
			`3:11: want a port such as 8080 or "8080:80", not a value of type "!port"`,
			`3:21: want a port such as 8080 or "8080:80", not a value of type "!!binary"`,
			"4:8: pin: want true or false, not 1"}},
		{name: "what a terminal would obey", text: one(`ports: [!!int "\e[31m", "\e[31m"]`), want: []string{
			`3:11: want a port such as 8080 or "8080:80", not the number \x1b[31m`,
			`3:27: port "\x1b[31m": "\x1b[31m" is not a number: not a port`}},
	}
}

func TestReadRejects(t *testing.T) {
	for _, table := range [][]rejected{wrongShapes(), wrongValues(), wrongTexts()} {
		for _, c := range table {
			m, err := read(c.text)
			if m != nil {
				t.Errorf("%s: got %+v beside an error", c.name, m)
			}
			want := file + ":" + strings.Join(c.want, "\n"+file+":")
			if got := fmt.Sprint(err); got != want {
				t.Errorf("%s: got\n%s\nwant\n%s", c.name, got, want)
			}
		}
	}
}

func TestReadWraps(t *testing.T) {
	_, err := read("forwards:\n- {target: A, ports: [x y], address: [z]}\n")
	for _, want := range []error{target.ErrUnknown, target.ErrPort, target.ErrAddress} {
		if !errors.Is(err, want) {
			t.Errorf("%v is not %v", err, want)
		}
	}
}

func TestReadTellsTwenty(t *testing.T) {
	for errs, want := range map[int]string{
		20: "forwards.yaml:21:3: a forward: want a mapping with target and ports, not the number 1",
		21: "forwards.yaml:21:3: and 2 more errors from here on",
		99: "forwards.yaml:21:3: and 80 more errors from here on",
	} {
		_, err := read("forwards:\n" + strings.Repeat("- 1\n", errs))
		lines := strings.Split(fmt.Sprint(err), "\n")
		if len(lines) != 20 || lines[19] != want {
			t.Errorf("%d errors: got %d, the last %q, want %q", errs, len(lines), lines[len(lines)-1], want)
		}
	}
}

func TestReadFails(t *testing.T) {
	_, err := manifest.Read(iotest.ErrReader(io.ErrUnexpectedEOF), file)
	if !errors.Is(err, io.ErrUnexpectedEOF) || err.Error() != "forwards.yaml: unexpected EOF" {
		t.Errorf("got %v", err)
	}
}

func FuzzRead(f *testing.F) {
	for _, text := range accepted() {
		f.Add(text)
	}
	for _, table := range [][]rejected{wrongShapes(), wrongValues(), wrongTexts()} {
		for _, c := range table {
			if len(c.text) < 1000 {
				f.Add(c.text)
			}
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		m, err := read(text)
		if err != nil {
			placed(t, text, err)
			return
		}
		for i, forward := range m.Forwards {
			if (len(forward.Ports) == 0) != forward.All || len(forward.Addresses) == 0 || forward.Line < 1 || forward.Target.Scheme == "" {
				t.Errorf("forward %d: %+v", i, forward)
			}
		}
	})
}

// placed fails the test where an error is not in the text, or not in order.
func placed(t *testing.T, text string, err error) {
	t.Helper()
	errs := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		errs = joined.Unwrap()
	}
	ends := strings.NewReplacer("\r", "\n", "\u0085", "\n", "\u2028", "\n", "\u2029", "\n")
	lines, before := 1+strings.Count(ends.Replace(text), "\n"), 1
	for _, err := range errs {
		e, ok := errors.AsType[*manifest.Error](err)
		if !ok || e.File != file || e.Line < before || e.Line > lines || e.Column < 0 || strings.Contains(e.Error(), "\n") {
			t.Errorf("%v of %d lines: %#v", err, lines, e)
			continue
		}
		before = e.Line
	}
	if len(errs) > 20 {
		t.Errorf("%d errors", len(errs))
	}
}
