package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"porthole.dev/porthole/internal/container"
	"porthole.dev/porthole/internal/kube"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/tunnel"
)

// textStyle prints kubectl's lines on stdout, which scripts read, and messages for a
// person on stderr.
type textStyle struct {
	verbose bool
	many    bool // there are several targets, so lines name theirs
}

func (s textStyle) line(e route.Event) (out, err string) {
	if e.Member != "" {
		e.Target = e.Member
	}
	switch e.Kind {
	case route.Listening:
		return s.listening("Forwarding", e), ""
	case route.Gone:
		return s.listening("No longer forwarding", e), ""
	case route.Opened:
		return fmt.Sprintf("Handling connection for %s%s", e.Listen.Short(), ofMember(e)), ""
	case route.Failed:
		return "", s.failed(e)
	case route.Waiting:
		return "", fmt.Sprintf("porthole: %s: waiting: %s", e.Target, describe(e.Err, s.verbose))
	case route.Reconnecting:
		return "", fmt.Sprintf("porthole: %s: lost connection%s, reconnecting: %s", e.Target, toPod(e.Pod), describe(e.Err, s.verbose))
	case route.Ready:
		return "", s.ready(e)
	case route.Carried:
		return "", s.carried(e)
	case route.Draining:
		return "", draining(e.Live)
	case route.Ended:
		return "", fmt.Sprintf("porthole: %s: %s", e.Target, describe(e.Err, s.verbose))
	case route.Closed:
		return "", s.closed(e)
	}
	return "", ""
}

// ofMember names the member of an event that has one: at consecutive addresses all have the same port.
func ofMember(e route.Event) string {
	if e.Member == "" {
		return ""
	}
	return " of " + e.Member
}

// listening says what is listened on, or is no longer.
func (s textStyle) listening(verb string, e route.Event) string {
	to := e.Remote
	to.Port = cmp.Or(e.PodPort, to.Port)
	if e.Reverse {
		return fmt.Sprintf(verb+" from %s of %s -> %s here", e.Listen, e.Target, to)
	}
	line := fmt.Sprintf(verb+" from %s -> %s", e.Listen, to)
	if s.many {
		line += " of " + e.Target
	}
	return line
}

func (s textStyle) ready(e route.Event) string {
	switch {
	case e.Again:
		if e.Pod == "" {
			return fmt.Sprintf("porthole: %s: connected again", e.Target)
		}
		return fmt.Sprintf("porthole: %s: connected again, to pod %s", e.Target, e.Pod)
	case e.Version != "":
		return fmt.Sprintf("porthole: %s: porthole there is version %s, and this one %s", e.Target, e.Version, version())
	case !s.verbose || e.Pod == "":
		return ""
	}
	return fmt.Sprintf("porthole: %s: connections go to pod %s", e.Target, e.Pod)
}

// carried says what carries connections, and what that needed.
func (s textStyle) carried(e route.Event) string {
	text := fmt.Sprintf("porthole: %s: %s ", e.Target, e.Remote.Named())
	switch {
	case e.Via == target.ViaAgent && e.Pod == "":
		return s.helped(e)
	case errors.Is(e.Err, container.ErrHostNetwork):
		return fmt.Sprintf("porthole: %s: %s", e.Target, describe(e.Err, s.verbose))
	case e.Via == target.ViaRelay && e.Found:
		text = fmt.Sprintf("porthole: %s: connections go through the relay that is there: pod %s", e.Target, e.Pod)
	case e.Via == target.ViaRelay:
		text = fmt.Sprintf("porthole: %s: connections go through a relay, which was started and ends a minute after its last client: pod %s", e.Target, e.Pod)
	case e.Via == target.ViaNode:
		text += "goes through porthole on the pod's node"
	case e.Found:
		text += fmt.Sprintf("goes through the agent that is in pod %s: container %s", e.Pod, e.Container)
	default:
		text += fmt.Sprintf("goes through an agent, which was started in pod %s and stays until that ends: ephemeral container %s", e.Pod, e.Container)
	}
	if e.Version != "" {
		text += fmt.Sprintf("; it is version %s, and this one %s", e.Version, version())
	}
	switch {
	case errors.Is(e.Err, kube.ErrLostKey):
		text += "; " + describe(e.Err, s.verbose)
	case e.Err != nil:
		text += "; its key cannot be checked: " + describe(e.Err, s.verbose)
	}
	return text
}

// helped says that a helper container carries connections, and why.
func (s textStyle) helped(e route.Event) string {
	text := fmt.Sprintf("porthole: %s: connections go through a helper container, which ends with this session", e.Target)
	if e.Version != "" {
		text += fmt.Sprintf("; porthole in it is version %s, and this one %s", e.Version, version())
	}
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// toPod is the words that kubectl has for a lost connection, where there was a pod.
func toPod(pod string) string {
	if pod == "" {
		return ""
	}
	return " to pod"
}

// draining says which connections the session waits for.
func draining(live int) string {
	if live == 1 {
		return fmt.Sprintf("porthole: waiting up to %v for an open connection to finish; press Ctrl-C again to cut it off", drain)
	}
	return fmt.Sprintf("porthole: waiting up to %v for %d open connections to finish; press Ctrl-C again to cut them off", drain, live)
}

func (s textStyle) failed(e route.Event) string {
	if e.Reverse { // the error says what could not be reached here
		return fmt.Sprintf("porthole: connection for %s of %s: %s", e.Listen.Short(), e.Target, describe(e.Err, s.verbose))
	}
	return fmt.Sprintf("porthole: connection for %s: %s %s: %s", e.Listen.Short(), e.Target, e.Remote.Named(), describe(e.Err, s.verbose))
}

func (s textStyle) closed(e route.Event) string {
	// A connection is used before the pod has answered; this is its late refusal.
	var refused *tunnel.PortError
	if errors.As(e.Err, &refused) {
		return s.failed(e)
	}
	if !s.verbose {
		return ""
	}
	end := "closed"
	if e.Err != nil {
		end = "reset: " + describe(e.Err, s.verbose)
	}
	if e.Dropped > 0 {
		end = fmt.Sprintf("%d datagrams dropped, %s", e.Dropped, end)
	}
	from := ""
	if e.Client.IsValid() {
		from = " from " + bare(e.Client)
	}
	return fmt.Sprintf("porthole: connection for %s%s: %d bytes sent, %d received, %v, %s",
		e.Listen.Short(), from, e.Sent, e.Received, e.Duration.Round(time.Millisecond), end)
}

// jsonStyle prints one JSON object a line on stdout.
type jsonStyle struct{}

// jsonEvent is an event as `-o json` prints it. Empty fields are left out.
type jsonEvent struct {
	Time      time.Time `json:"time"`
	Event     string    `json:"event"` // listening, gone, waiting, ready, carried, opened, closed, reconnecting, ended, draining or error
	Target    string    `json:"target,omitempty"`
	Pod       string    `json:"pod,omitempty"`     // of ready: where connections go; of reconnecting: where they went; with --each: whose event it is
	Reverse   bool      `json:"reverse,omitempty"` // listen is at the target, and remote is here
	Listen    string    `json:"listen,omitempty"`  // ADDRESS:PORT, or the path of a Unix socket
	Network   string    `json:"network,omitempty"` // of remote: udp or unix
	Host      string    `json:"host,omitempty"`    // of remote, where that is not at the target itself
	Remote    uint16    `json:"remote,omitempty"`
	Path      string    `json:"path,omitempty"`      // of a Unix socket, in place of remote
	Client    string    `json:"client,omitempty"`    // ADDRESS:PORT
	Sent      *int64    `json:"sent,omitempty"`      // bytes, of a closed connection
	Received  *int64    `json:"received,omitempty"`  // bytes, of a closed connection
	Dropped   int64     `json:"dropped,omitempty"`   // datagrams, of a closed connection
	Seconds   float64   `json:"seconds,omitempty"`   // that a connection was open
	Via       string    `json:"via,omitempty"`       // of carried: node, agent or relay
	Container string    `json:"container,omitempty"` // of carried: the ephemeral container of the agent
	Found     bool      `json:"found,omitempty"`     // of carried: it was there already
	Version   string    `json:"version,omitempty"`   // of ready and carried: that of porthole at the other end, if it is another one
	Live      int       `json:"live,omitempty"`      // connections, while draining
	Error     string    `json:"error,omitempty"`
	Hint      string    `json:"hint,omitempty"`
}

func (jsonStyle) line(e route.Event) (out, err string) {
	j := jsonEvent{
		Time: time.Now(), Event: string(e.Kind), Target: e.Target, Pod: cmp.Or(e.Pod, e.Member), Reverse: e.Reverse, Listen: bare(e.Listen), Host: e.Remote.Host, Remote: e.Remote.Port, Path: e.Remote.Path,
		Client: bare(e.Client), Seconds: e.Duration.Seconds(), Live: e.Live, Dropped: e.Dropped, Version: e.Version,
		Via: string(e.Via), Container: e.Container, Found: e.Found,
	}
	if e.Remote.Network != target.TCP {
		j.Network = e.Remote.Network.String()
	}
	if e.Kind == route.Failed {
		j.Event = "error"
	}
	if e.Kind == route.Closed {
		j.Sent, j.Received = &e.Sent, &e.Received
	}
	if e.Err != nil {
		j.Error, j.Hint = e.Err.Error(), hint(e.Err)
	}
	text, merr := json.Marshal(j)
	if merr != nil {
		return "", "porthole: " + merr.Error()
	}
	return string(text), ""
}

// bare returns an endpoint without its network: an address and port, or a path.
func bare(e target.Endpoint) string {
	if !e.IsValid() {
		return e.Path
	}
	return e.AddrPort.String()
}
