package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"syscall"
	"time"
)

const (
	// soakAtOnce is how many connections of a soak come together: enough that
	// tunnels are shared, opened and closed again all the time.
	soakAtOnce = 20
	// soakWarm is how many connections come before anything is counted.
	soakWarm = 10000
	// soakRest is how long a client has for closing what it keeps warm.
	soakRest = 75 * time.Second
)

// footprint is what a process holds.
type footprint struct {
	rss, descriptors, threads, goroutines int
}

// kubeSoak has one client carry many connections, and compares what it holds
// afterwards with what it held before. Goroutines can be counted only once, in
// the trace of its end: for them a second client tells what was before.
func (b *bench) kubeSoak(ctx context.Context) error {
	return b.soakBy(ctx, "kube", nil)
}

// soakBy is kubeSoak with flags for the client.
func (b *bench) soakBy(ctx context.Context, part string, flags []string) error {
	var fresh, used footprint
	var began, ended int
	err := b.soakClient(ctx, flags, func(p *peer) (err error) { fresh, err = soakFor(p.dial, p.cmd.Process.Pid, soakWarm); return err }, &began)
	if err != nil {
		return err
	}
	start := time.Now()
	err = b.soakClient(ctx, flags, func(p *peer) (err error) { used, err = soakFor(p.dial, p.cmd.Process.Pid, b.soak); return err }, &ended)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "soak: %d connections in %v\n", b.soak, (time.Since(start) - soakRest).Round(time.Second))
	fresh.goroutines, used.goroutines = began, ended
	b.addSoak(part, fresh, used)
	return nil
}

// addSoak adds the rows of a soak.
func (b *bench) addSoak(part string, before, after footprint) {
	for _, each := range []struct {
		what          string
		before, after int
		ok            bool
	}{
		{"memory, MiB", before.rss >> 10, after.rss >> 10, after.rss < before.rss*5/4},
		{"descriptors", before.descriptors, after.descriptors, after.descriptors <= before.descriptors+2},
		{"threads", before.threads, after.threads, after.threads <= before.threads+4},
		{"goroutines", before.goroutines, after.goroutines, after.goroutines <= before.goroutines+2},
	} {
		b.add(row{fmt.Sprintf("%s: a minute after %d connections: %s", part, b.soak, each.what), strconv.Itoa(each.after),
			fmt.Sprintf("%d (after %d)", each.before, soakWarm), fmt.Sprintf("%.2f", float64(each.after)/float64(each.before)), "flat", each.ok})
	}
}

// soakClient starts porthole for one measurement and ends it with a trace of its
// goroutines, which it counts.
func (b *bench) soakClient(ctx context.Context, flags []string, measure func(*peer) error, goroutines *int) error {
	var trace bytes.Buffer
	p, err := b.startClientTo(ctx, &trace, b.porthole, append([]string{"forward", "pod/" + b.cluster.pod}, flags...))
	if err != nil {
		return err
	}
	err = measure(p)
	_ = p.cmd.Process.Signal(syscall.SIGABRT) // SIGQUIT ends the session without a trace
	_ = p.cmd.Wait()
	*goroutines = len(regexp.MustCompile(`(?m)^goroutine \d+ `).FindAll(trace.Bytes(), -1))
	if err == nil && *goroutines == 0 {
		err = errors.New("the client left no trace of its goroutines")
	}
	return err
}

// soakFor makes n connections and looks at a process once it had time to rest.
func soakFor(dial dialer, pid, n int) (footprint, error) {
	for range n / soakAtOnce {
		if _, err := burst(dial, soakAtOnce); err != nil {
			return footprint{}, err
		}
	}
	time.Sleep(soakRest)
	return footprintOf(pid)
}

func footprintOf(pid int) (footprint, error) {
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	return footprint{rss: status(pid, "VmRSS"), descriptors: len(open), threads: status(pid, "Threads")}, err
}
