package manifest

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v4"

	"porthole.dev/porthole/internal/target"
)

const (
	maxLabel = 63     // bytes of a name: RFC 1123
	maxPorts = 10_000 // of a file: each is a socket at least
)

// decoder turns the values of one file into a Manifest, and collects the errors in them.
type decoder struct {
	file   string
	last   int // the number of the file's last line
	errs   []*Error
	values int            // how many were read
	names  map[string]int // of forwards, and their lines
	tcp    claims
	udp    claims
	paths  map[string]int // of Unix sockets to listen on, and their lines
	count  int            // of ports
}

func newDecoder(file string, text []byte) *decoder {
	return &decoder{file: file, last: lastLine(text), names: map[string]int{}, tcp: newClaims(), udp: newClaims(), paths: map[string]int{}}
}

func (d *decoder) fail(at value, err error) {
	if at.line > d.last { // the file ends where a value should be
		at.line, at.column = d.last, 0
	}
	d.errs = append(d.errs, &Error{File: d.file, Line: at.line, Column: at.column, Err: err})
}

func (d *decoder) failf(at value, format string, args ...any) {
	d.fail(at, fmt.Errorf(format, args...))
}

func (d *decoder) manifest(root *yaml.Node) *Manifest {
	fields := d.fields(newValue(root), "the file", keysOf[Manifest](), "forwards")
	m := new(Manifest)
	for _, v := range d.list(fields["forwards"], "forwards") {
		m.Forwards = append(m.Forwards, d.forward(v))
	}
	return m
}

// forward reads one forward. Parts of it that are wrong are left out.
func (d *decoder) forward(v value) target.Forward {
	required := []string{"target", "ports"}
	if v.hasKey("all") {
		required = required[:1]
	}
	fields := d.fields(v, "a forward", keysOf[target.Forward](), required...)
	f := target.Forward{Line: v.line}
	f.Name = d.name(fields["name"])
	f.Target = d.target(fields["target"])
	f.Host = d.host(fields["host"])
	f.Context = d.text(fields["context"], "context")
	f.Namespace = d.namespace(fields["namespace"])
	f.Pin = d.boolean(fields["pin"], "pin")
	f.Addresses = d.addresses(fields["address"])
	f.Each = parsed(d, fields["each"], "each", target.ParseEach)
	f.Via = parsed(d, fields["via"], "via", target.ParseVia)
	f.Container = parsed(d, fields["container"], "container", target.ParseContainer)
	f.EngineContext = d.text(fields["engineContext"], "engineContext")
	f.Ports = d.ports(fields["ports"], f)
	f.All = d.boolean(fields["all"], "all")
	f.Except = d.except(fields["except"])
	d.checkAll(v, f, fields)
	if at := fields["host"]; at.given() && f.Target.Scheme.InCluster() {
		d.failf(at, "host is for pid://, netns:// and containers, which %q is not", f.Target.String())
	}
	d.checkScheme(f, fields)
	return f
}

// except reads the ports that all leaves out.
func (d *decoder) except(v value) (except target.PortSet) {
	for _, item := range d.list(v, "except") {
		if !item.isCounting() && !item.isText() || len(item.node.Value) > maxText {
			d.failf(item, "except: want a port such as 22 or \"9000-9010\", not %s", item.kind())
			continue
		}
		ports, err := target.ParsePortSet(item.node.Value)
		if err == nil && len(ports) != 1 {
			err = fmt.Errorf("%q: %w", clip(item.node.Value), target.ErrPortSet)
		}
		if err != nil {
			d.failf(item, "except: %w", err)
		}
		except = append(except, ports...)
	}
	return except
}

// checkAll reports what does not go together with all, at v, or where it is written.
func (d *decoder) checkAll(v value, f target.Forward, fields map[string]value) {
	except, ports := fields["except"], fields["ports"]
	switch {
	case f.Target.Scheme == "":
	case !f.All && fields["all"].given() && !ports.given():
		d.failf(v, "a forward has no ports")
	case !f.All && except.given():
		d.failf(except, "except is what all leaves out: %w", target.ErrAll)
	case f.All && ports.given():
		d.failf(ports, "ports are all ports where all is true: %w", target.ErrAll)
	case f.All:
		if err := f.CheckAll(); err != nil {
			d.fail(fields["all"], err)
		}
	}
}

// checkScheme reports what goes with other schemes than that of the forward's target.
func (d *decoder) checkScheme(f target.Forward, fields map[string]value) {
	refuse := func(kind string, keys ...string) {
		for _, key := range keys {
			if at := fields[key]; at.given() {
				d.failf(at, "%s is for %s, which %q is not", key, kind, f.Target.String())
			}
		}
	}
	switch {
	case f.Target.Scheme == "":
	case f.Target.Scheme == target.RemoteHost:
		refuse("pods of Kubernetes", "pin", "each", "container")
		refuse("docker:// and podman://", "engineContext")
		d.checkVia(f, fields)
	case f.Target.Scheme.InEngine():
		refuse("targets of Kubernetes", "context", "namespace", "pin", "each")
		if f.Target.Scheme != target.CRI {
			refuse("pods", "container")
		}
		if err := f.CheckEngine(); err != nil {
			d.fail(fields["engineContext"], err)
		}
		d.checkVia(f, fields)
	case f.Target.Scheme != target.Kubernetes:
		refuse("targets of Kubernetes", "context", "namespace", "pin", "each", "via", "container")
		refuse("docker:// and podman://", "engineContext")
	default:
		refuse("docker:// and podman://", "engineContext")
		if err := f.CheckEach(); err != nil {
			d.fail(fields["each"], err)
		}
		d.checkVia(f, fields)
	}
}

// checkVia reports what cannot carry the forward's ports. A container that none of them needs does no harm in a file.
func (d *decoder) checkVia(f target.Forward, fields map[string]value) {
	switch err := f.CheckVia(); {
	case err == nil, errors.Is(err, target.ErrNoSocket):
	case errors.Is(err, target.ErrContainerHere):
		d.fail(fields["container"], err)
	default:
		d.fail(fields["via"], err)
	}
}

func (d *decoder) name(v value) string {
	name := d.text(v, "name")
	switch before := d.names[name]; {
	case name == "":
	case !isLabel(name) || name[0] < 'a':
		d.failf(v, "name %q: want a lower-case letter, then lower-case letters, digits and dashes, %d at most", clip(name), maxLabel)
	case before > 0:
		d.failf(v, "name %q is taken on line %d", name, before)
	default:
		d.names[name] = v.line
	}
	return name
}

func (d *decoder) target(v value) target.Target {
	text := d.text(v, "target")
	if text == "" {
		return target.Target{}
	}
	t, err := target.Parse(text)
	if err != nil {
		d.fail(v, err)
	}
	return t
}

// parsed reads a text of a form of its own. It returns the zero value after an error, and if v
// is not given.
func parsed[T any](d *decoder, v value, key string, parse func(string) (T, error)) (t T) {
	text := d.text(v, key)
	if text == "" {
		return t
	}
	t, err := parse(text)
	if err != nil {
		d.failf(v, "%s: %w", key, err)
	}
	return t
}

func (d *decoder) host(v value) target.Host {
	text := d.text(v, "host")
	if text == "" {
		return target.Host{}
	}
	h, err := target.ParseHost(text)
	if err != nil {
		d.fail(v, err)
	}
	return h
}

func (d *decoder) namespace(v value) string {
	namespace := d.text(v, "namespace")
	if namespace != "" && !isLabel(namespace) {
		d.failf(v, "namespace %q: want lower-case letters, digits and dashes between them, %d at most", clip(namespace), maxLabel)
	}
	return namespace
}

// addresses reads the addresses to listen on, and leaves out those that are wrong.
func (d *decoder) addresses(v value) (addresses []string) {
	if !v.given() {
		return []string{target.Localhost}
	}
	taken := newClaims()
	for _, item := range d.list(v, "address") {
		text := d.text(item, "address")
		if text == "" {
			continue
		}
		a, err := target.ParseAddress(text)
		if err != nil {
			d.fail(item, err)
		} else if d.claim(taken, item, []string{a}, 0) {
			addresses = append(addresses, a)
		}
	}
	return addresses
}

// ports reads the ports of f, whose target and addresses have been read.
func (d *decoder) ports(v value, f target.Forward) (ports []target.Port) {
	parse := target.ParseNamedPorts
	if f.Target.Scheme != "" && f.Target.Scheme != target.Kubernetes {
		parse = target.ParsePorts
	}
	for _, item := range d.list(v, "ports") {
		more := d.port(item, parse)
		if d.count += len(more); d.count > maxPorts {
			d.failf(item, "there are more than %d ports", maxPorts)
			d.count = math.MinInt // said once
			return nil
		}
		for _, p := range more {
			d.claimPort(item, f, p)
		}
		if err := (target.Forward{Target: f.Target, Ports: more}).CheckPorts(); err != nil {
			d.fail(item, err)
		}
		ports = append(ports, more...)
	}
	return ports
}

// claimPort takes what a port listens on.
func (d *decoder) claimPort(v value, f target.Forward, p target.Port) {
	if first, err := f.For("first", 0).Locals([]target.Port{p}); err == nil && f.Each != "" {
		p = first[0]
	}
	addresses := f.Addresses
	if p.Address != "" {
		addresses = []string{p.Address}
	}
	switch before := d.paths[filepath.Clean(p.LocalPath)]; {
	case p.LocalPath != "" && before > 0:
		d.failf(v, "local socket %s is taken on line %d", p.LocalPath, before)
	case p.LocalPath != "":
		d.paths[filepath.Clean(p.LocalPath)] = v.line
	case p.Local == 0: // any free port, or one that is known later
	case p.Network == target.UDP:
		d.claim(d.udp, v, addresses, p.Local)
	default:
		d.claim(d.tcp, v, addresses, p.Local)
	}
}

func (d *decoder) port(v value, parse func(string) ([]target.Port, error)) []target.Port {
	if !v.isCounting() && !v.isText() || len(v.node.Value) > maxText {
		d.failf(v, "want a port such as 8080 or \"8080:80\", not %s", v.kind())
		return nil
	}
	ports, err := parse(v.node.Value)
	if err != nil {
		d.fail(v, err)
	}
	return ports
}

// claim takes the port at all of the addresses, or reports which is taken. With port 0
// it takes the addresses alone.
func (d *decoder) claim(c claims, v value, addresses []string, port uint16) bool {
	for _, address := range addresses {
		for _, a := range expand(address) {
			local := netip.AddrPortFrom(a, port)
			before := c.take(local, v.line)
			switch {
			case before == 0:
				continue
			case port == 0:
				d.failf(v, "address %s is covered already on line %d", a, before)
			default:
				d.failf(v, "local port %s is taken on line %d", local, before)
			}
			return false
		}
	}
	return true
}

// isLabel reports whether s is a label of RFC 1123, as namespaces' names are.
func isLabel(s string) bool {
	foreign := func(r rune) bool { return r != '-' && (r < 'a' || r > 'z') && (r < '0' || r > '9') }
	return s != "" && len(s) <= maxLabel && !strings.ContainsFunc(s, foreign) && s[0] != '-' && s[len(s)-1] != '-'
}
