package main

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/session"
	"porthole.dev/porthole/internal/target"
)

// eachStates are a forward to each of two pods, as a session has them.
func eachStates() []session.State {
	f := target.Forward{Name: "shop", Each: target.EachPorts}
	listener := func(local string, remote uint16) *route.Listener {
		return &route.Listener{Local: target.Endpoint{AddrPort: netip.MustParseAddrPort(local)}, Remote: target.TCPPort(remote)}
	}
	return []session.State{
		{Forward: f.For("db-0", 0), Listeners: []*route.Listener{listener("127.0.0.1:5432", 5432), listener("127.0.0.1:8080", 80)}},
		{Forward: f.For("db-1.x", 1), Listeners: []*route.Listener{listener("127.0.0.1:5433", 5432), listener("127.0.0.1:8081", 80)}},
	}
}

// A command finds the first pod under the names that a whole target has, and each under its own.
func TestEachEnvironment(t *testing.T) {
	want := []string{
		"PORTHOLE_ADDR=127.0.0.1:5432", "PORTHOLE_PORT=5432",
		"PORTHOLE_ADDR_5432=127.0.0.1:5432", "PORTHOLE_PORT_5432=5432",
		"PORTHOLE_ADDR_SHOP=127.0.0.1:5432", "PORTHOLE_PORT_SHOP=5432",
		"PORTHOLE_ADDR_DB_0=127.0.0.1:5432", "PORTHOLE_PORT_DB_0=5432",
		"PORTHOLE_ADDR_80=127.0.0.1:8080", "PORTHOLE_PORT_80=8080",
		"PORTHOLE_ADDR_DB_1_X=127.0.0.1:5433", "PORTHOLE_PORT_DB_1_X=5433",
	}
	if got := environment(eachStates()); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestEachReadyFile(t *testing.T) {
	r, err := newReadyFile(filepath.Join(t.TempDir(), "ready"))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.write(eachStates()); err != nil {
		t.Fatal(err)
	}
	want := "127.0.0.1:5432 5432 db-0\n127.0.0.1:8080 80 db-0\n127.0.0.1:5433 5432 db-1.x\n127.0.0.1:8081 80 db-1.x\n"
	if got, err := os.ReadFile(r.path); err != nil || string(got) != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

// Lines and events name the pod.
func TestEachLines(t *testing.T) {
	local := target.Endpoint{AddrPort: netip.MustParseAddrPort("127.0.0.1:5433")}
	for _, test := range []struct {
		event     route.Event
		out, errs string
	}{
		{route.Event{Kind: route.Listening}, "Forwarding from 127.0.0.1:5433 -> 5432 of db-1", ""},
		{route.Event{Kind: route.Opened}, "Handling connection for 5433 of db-1", ""},
		{route.Event{Kind: route.Failed, Err: errors.New("no")}, "", "porthole: connection for 5433: db-1 port 5432: no"},
		{route.Event{Kind: route.Ended, Err: errors.New("no longer part of sts/db")}, "", "porthole: db-1: no longer part of sts/db"},
	} {
		e := test.event
		e.Target, e.Member, e.Listen, e.Remote = "sts/db", "db-1", local, target.TCPPort(5432)
		if out, errs := (textStyle{many: true}).line(e); out != test.out || errs != test.errs {
			t.Errorf("%s: %q, %q, want %q, %q", e.Kind, out, errs, test.out, test.errs)
		}
	}
}
