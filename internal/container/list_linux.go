package container

import (
	"context"
	"runtime"
	"strconv"
	"sync"

	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/proc"
	"porthole.dev/porthole/internal/target"
)

// lookInside finds what listens in the containers that run, several at once.
func lookInside(ctx context.Context, e engine, all []Listed, first func() map[string]int) {
	next := make(chan *Listed)
	var looking sync.WaitGroup
	for range 2 * runtime.NumCPU() {
		looking.Go(func() {
			for l := range next {
				l.Unseen = l.look(ctx, e, first)
			}
		})
	}
	for i := range all {
		if s := all[i].State; s == Running || s == Paused {
			next <- &all[i]
		}
	}
	close(next)
	looking.Wait()
}

// look finds what listens in a container, by its first process: the one of the engine's list or else of cgroups, so that the
// engine is not asked about each.
func (l *Listed) look(ctx context.Context, e engine, first func() map[string]int) error {
	c := l.process
	if c.PID == 0 {
		c = found{ID: l.ID, PID: first()[l.ID]}
	}
	ns, err := openNamespace(c)
	if err != nil {
		all, failed := e.find(ctx, l.Target)
		if failed != nil {
			return failed
		}
		if len(all) != 1 {
			return ErrAmbiguous
		}
		if ns, err = openNamespace(all[0]); err != nil {
			return err
		}
	}
	defer ns.Close()
	id, err := ns.ID()
	if err != nil {
		return err
	}
	if own, err := netns.Here().ID(); err == nil && own == id {
		l.HostNetwork = true
		return nil
	}
	l.network = id
	sockets, err := ns.Listening()
	if err == nil || len(sockets) > 0 {
		l.Listening = append([]target.Socket{}, withoutDockerDNS(l.Target.Scheme, sockets)...) // also of nothing that listens
	}
	return err
}

// firstProcesses returns the lowest process of each container that a cgroup or a shim names. Whoever may make cgroups, or calls a
// program so, can pose as a container: of one that is in two places, the engine is asked.
func firstProcesses() map[string]int {
	first, namedBy := map[string]int{}, map[string]string{}
	for _, pid := range proc.All() {
		switch id, by := containerOfProcess(pid); {
		case id == "":
		case namedBy[id] == "":
			first[id], namedBy[id] = pid, by
		case namedBy[id] != by:
			first[id] = 0
		}
	}
	return first
}

// containerOfProcess returns the ID of the container that a process is in, "" for none, and what names it: the container's
// cgroup, or the number of its shim.
func containerOfProcess(pid int) (id, by string) {
	for _, cgroup := range cgroupsOf(pid) { // each names the same
		if id, by = containerOf(cgroup, ""); id != "" {
			return id, by
		}
	}
	id, shim := shimOf(pid)
	return id, strconv.Itoa(shim)
}

// nameProcesses names the processes of what listens, looking at each process of this host once.
func nameProcesses(all []Listed) {
	var sockets []target.Socket
	var networks []netns.ID
	for _, l := range all {
		sockets = append(sockets, l.Listening...)
		networks = append(networks, l.network)
	}
	netns.NameProcesses(sockets, networks...)
	for i := range all {
		n := copy(all[i].Listening, sockets)
		sockets = sockets[n:]
	}
}
