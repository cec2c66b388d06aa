package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"porthole.dev/porthole/internal/container"
	"porthole.dev/porthole/internal/kube"
	"porthole.dev/porthole/internal/safetext"
	"porthole.dev/porthole/internal/target"
)

// foundTarget is a target and its ports, as `porthole targets -o json` prints it. Empty fields are left out.
type foundTarget struct {
	Target      string      `json:"target"`
	Service     string      `json:"service,omitempty"` // of Compose that a container belongs to, as a target of its own
	State       string      `json:"state,omitempty"`   // of a container or pod, in its engine's word
	Image       string      `json:"image,omitempty"`
	ID          string      `json:"id,omitempty"`
	HostNetwork bool        `json:"hostNetwork,omitempty"` // its ports are this host's, and are not listed
	Ports       []foundPort `json:"ports"`
	Error       string      `json:"error,omitempty"` // why it cannot be seen what listens
}

// foundPort is a port or a Unix socket of a target.
type foundPort struct {
	Network   string   `json:"network"`           // tcp, udp or unix
	Address   string   `json:"address,omitempty"` // that it listens on; "0.0.0.0" and "::" are all of their families
	Port      uint16   `json:"port,omitempty"`
	Path      string   `json:"path,omitempty"`
	Name      string   `json:"name,omitempty"`      // that a pod or service declares
	Listening bool     `json:"listening"`           // as the kernel says; false where it does not, or was not asked
	Declared  bool     `json:"declared,omitempty"`  // by a pod, service or workload
	Published []string `json:"published,omitempty"` // where the engine has it on its host, as ADDRESS:PORT
	UID       *uint32  `json:"uid,omitempty"`
	PID       int      `json:"pid,omitempty"`
	Command   string   `json:"command,omitempty"`

	remote target.Address // as it is forwarded to
}

// foundContainer is a container as its engine, and the kernel, tell of it.
func foundContainer(l container.Listed) foundTarget {
	f := foundTarget{Target: l.Target.String(), State: string(l.State), Image: l.Image, ID: l.ID, HostNetwork: l.HostNetwork}
	if l.Service != (target.Target{}) {
		f.Service = l.Service.String()
	}
	f.listen(l.Listening)
	switch {
	case l.HostNetwork:
	case errors.Is(l.Unseen, os.ErrPermission):
		f.Error = "its process is another user's"
	case l.Unseen != nil:
		f.Error = describe(l.Unseen, false)
	}
	for _, p := range l.Published {
		at := net.JoinHostPort(cmp.Or(p.Address, "0.0.0.0"), strconv.Itoa(int(p.Host)))
		for i := range f.findOrAdd(target.Address{Network: p.Network, Port: p.Port}) {
			if !slices.Contains(f.Ports[i].Published, at) {
				f.Ports[i].Published = append(f.Ports[i].Published, at)
			}
		}
	}
	return f
}

// listen adds what listens.
func (f *foundTarget) listen(sockets []target.Socket) {
	f.Ports = append(f.Ports, make([]foundPort, 0, len(sockets))...)
	for _, s := range sockets {
		p := foundPort{Network: s.Network.String(), Port: s.Port(), Path: s.Path, Listening: true, PID: s.PID, Command: s.Command, remote: s.Address()}
		if s.Network != target.Unix {
			p.Address = s.Addr().String()
		}
		if s.Inode != 0 {
			p.UID = &s.UID
		}
		f.Ports = append(f.Ports, p)
	}
	if f.Ports == nil {
		f.Ports = []foundPort{}
	}
}

// declare adds, or marks, the ports that an object of Kubernetes declares.
func (f *foundTarget) declare(ports []kube.DeclaredPort) {
	f.listen(nil)
	for _, p := range ports {
		for i := range f.findOrAdd(target.Address{Network: p.Network, Port: p.Number}) {
			f.Ports[i].Declared, f.Ports[i].Name = true, p.Name
		}
	}
}

// findOrAdd yields the indices of a port, which is added if it is not there.
func (f *foundTarget) findOrAdd(to target.Address) func(func(int) bool) {
	is := func(p foundPort) bool { return p.remote.Network == to.Network && p.remote.Port == to.Port }
	if !slices.ContainsFunc(f.Ports, is) {
		f.Ports = append(f.Ports, foundPort{Network: to.Network.String(), Port: to.Port, remote: to})
	}
	return func(yield func(int) bool) {
		for i, p := range f.Ports {
			if is(p) && !yield(i) {
				return
			}
		}
	}
}

// table writes rows in columns.
func table(out io.Writer, rows [][]string) error {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	for _, row := range rows {
		for i := range row {
			row[i] = safetext.Line(strings.ReplaceAll(row[i], "\t", " "))
		}
		fmt.Fprintln(w, strings.TrimRight(strings.Join(row, "\t"), "\t"))
	}
	return w.Flush()
}

// printTargets prints a line for each target.
func printTargets(out io.Writer, all []foundTarget, wide bool) error {
	rows := [][]string{{"TARGET", "PORTS"}}
	if wide {
		rows = [][]string{{"TARGET", "SERVICE", "STATE", "IMAGE", "PORTS"}}
	}
	for _, f := range all {
		if wide {
			rows = append(rows, []string{f.Target, cmp.Or(f.Service, "-"), cmp.Or(f.State, "-"), cmp.Or(f.Image, "-"), f.ports(true)})
		} else {
			rows = append(rows, []string{f.Target, f.ports(false)})
		}
	}
	return table(out, rows)
}

// ports are all ports in one cell.
func (f foundTarget) ports(wide bool) string {
	var texts []string
	for _, p := range f.Ports {
		text := p.remote.String()
		if p.Name != "" {
			text += " " + p.Name
		}
		if wide && p.Command != "" {
			text += " " + p.Command
		}
		if len(p.Published) > 0 {
			text += " (published at " + strings.Join(p.Published, " and ") + ")"
		}
		if !slices.Contains(texts, text) { // each family has a socket of its own
			texts = append(texts, text)
		}
	}
	switch state := strings.ToLower(f.State); {
	case f.HostNetwork:
		texts = append(texts, "(this host's)")
	case f.Error != "":
		texts = append(texts, "(cannot be seen: "+f.Error+")")
	case state != "" && state != string(container.Running):
		texts = append(texts, "("+state+")")
	case len(texts) == 0:
		return "-"
	}
	return strings.Join(texts, ", ")
}

// printPorts prints a line for each port of a target.
func printPorts(out io.Writer, f foundTarget, wide bool) error {
	header := []string{"PORT", "LISTENS ON", "PROCESS", "NOTE"}
	if wide {
		header = []string{"PORT", "LISTENS ON", "PROCESS", "PID", "UID", "NOTE"}
	}
	rows := [][]string{header}
	for _, p := range f.Ports {
		row := []string{p.remote.String(), cmp.Or(p.Address, "-"), cmp.Or(p.Command, "-")}
		if wide {
			pid, uid := "-", "-"
			if p.PID != 0 {
				pid = strconv.Itoa(p.PID)
			}
			if p.UID != nil {
				uid = strconv.FormatUint(uint64(*p.UID), 10)
			}
			row = append(row, pid, uid)
		}
		rows = append(rows, append(row, p.note()))
	}
	if err := table(out, rows); err != nil || f.Error == "" {
		return err
	}
	_, err := fmt.Fprintln(out, safetext.Line("what listens cannot be seen: "+f.Error))
	return err
}

// note says what the engine or the cluster tells of a port.
func (p foundPort) note() string {
	var notes []string
	if len(p.Published) > 0 {
		notes = append(notes, "published at "+strings.Join(p.Published, " and "))
	}
	if p.Declared {
		notes = append(notes, strings.TrimSpace("declared "+p.Name))
	}
	if !p.Listening && len(p.Published) > 0 {
		notes = append(notes, "nothing listens")
	}
	return strings.Join(notes, ", ")
}
