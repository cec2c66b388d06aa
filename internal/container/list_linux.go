package container

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"sync"

	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/target"
)

// lookInside finds what listens in the containers that run, several at once.
func lookInside(ctx context.Context, e engine, all []Listed, first func() map[string]int) {
	processes := first()
	next := make(chan *Listed)
	var looking sync.WaitGroup
	for range 2 * runtime.NumCPU() {
		looking.Go(func() {
			for l := range next {
				l.Unseen = l.look(ctx, e, processes[l.ID])
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

// look finds what listens in a container, by the number of its first process if that is known.
func (l *Listed) look(ctx context.Context, e engine, pid int) error {
	ns, err := openNamespace(found{ID: l.ID, PID: pid})
	if pid == 0 || err != nil {
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
	l.Listening, err = ns.Listening()
	return err
}

// longID is the ID of a container, as runtimes name a cgroup by it.
var longID = regexp.MustCompile(`[0-9a-f]{64}`)

// firstProcesses returns the lowest process of each container that cgroups name.
func firstProcesses() map[string]int {
	first := map[string]int{}
	all, _ := os.ReadDir("/proc") // and no pattern, for which each process' folder would be read
	for _, folder := range all {
		pid, err := strconv.Atoi(folder.Name())
		if err != nil {
			continue
		}
		list, _ := os.ReadFile(filepath.Join("/proc", folder.Name(), "cgroup"))
		for line := range bytes.Lines(list) { // each names the same
			ids := longID.FindAll(line, -1)
			for _, id := range ids {
				if before := first[string(id)]; before == 0 || pid < before {
					first[string(id)] = pid
				}
			}
			if len(ids) > 0 {
				break
			}
		}
	}
	return first
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
