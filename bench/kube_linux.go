package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"
)

// cluster is a Kubernetes in which a pod serves as serveInside does.
type cluster struct {
	kubectls []string // paths of the programs; the first is of the cluster's version
	server   string   // URL of the API server
	pod      string
	port     string

	containerd string // path of the runtime's socket
	node       string // name of the only node
	pointer    string // a command that points the kubelet at the socket that follows
	agentImage string // the image of agents, which the node has
}

// given reports whether there is a cluster to measure on.
func (c *cluster) given() bool { return len(c.kubectls) > 0 }

// kube measures porthole beside each kubectl on the stock cluster.
func (b *bench) kube(ctx context.Context) error {
	if !b.cluster.given() {
		fmt.Fprintln(os.Stderr, "kube: no -kubectl given: left out")
		return nil
	}
	server, err := exec.CommandContext(ctx, b.cluster.kubectls[0], "config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}").Output()
	if err != nil {
		return fmt.Errorf("find the API server: %w", err)
	}
	b.cluster.server = string(server)
	for i, kubectl := range b.cluster.kubectls {
		measures := []func(context.Context, *peer, *peer) error{b.kubeConnect, b.kubeBurst, b.kubeBulk}
		if i == 0 { // what says something of porthole alone is measured once
			measures = append(measures, b.kubeStall, b.kubeMemory)
		}
		for _, measure := range measures {
			if err := b.withClients(ctx, kubectl, nil, measure); err != nil {
				return err
			}
		}
	}
	return b.kubeWAN(ctx)
}

// withClients starts both clients afresh, each forwarding a local port to the pod.
func (b *bench) withClients(ctx context.Context, program string, flags []string, measure func(context.Context, *peer, *peer) error) error {
	porthole, err := b.startClient(ctx, b.porthole, append([]string{"forward", "pod/" + b.cluster.pod}, flags...))
	if err != nil {
		return err
	}
	defer porthole.close()
	kubectl, err := b.startClient(ctx, program, append([]string{"port-forward", "pod/" + b.cluster.pod}, flags...))
	if err != nil {
		return err
	}
	defer kubectl.close()
	kubectl.name = b.nameOf(program)
	return measure(ctx, porthole, kubectl)
}

// nameOf is what the table calls a program: kubectl and its version, or porthole.
func (b *bench) nameOf(program string) string {
	if program == b.porthole {
		return "porthole"
	}
	out, _ := exec.Command(program, "version", "--client").Output()
	_, version, _ := strings.Cut(string(out), "Client Version: ")
	version, _, _ = strings.Cut(version, "\n")
	return "kubectl " + version
}

// startClient starts porthole or kubectl: both print the same line.
func (b *bench) startClient(ctx context.Context, program string, args []string) (*peer, error) {
	return b.startClientTo(ctx, os.Stderr, program, args)
}

// startClientTo is startClient, which has the program complain elsewhere.
func (b *bench) startClientTo(ctx context.Context, complaints io.Writer, program string, args []string) (*peer, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stderr = complaints
	return b.startCommand(cmd)
}

// startCommand is startClient for a command that lacks the ports.
func (b *bench) startCommand(cmd *exec.Cmd) (*peer, error) {
	cmd.Args = append(cmd.Args, "--address", "127.0.0.1", ":"+b.cluster.port)
	line, err := startAndRead(cmd)
	words := strings.Fields(line)
	if err != nil || len(words) < 3 {
		return nil, fmt.Errorf("start %s: %q, %w", cmd.Path, line, err)
	}
	return &peer{cmd: cmd, address: words[2]}, nil
}

func (b *bench) kubeConnect(_ context.Context, porthole, kubectl *peer) error {
	times, err := b.alternate([]dialer{porthole.dial, kubectl.dial}, func(d dialer) (float64, error) { return connectP50(d, 50) })
	if err != nil {
		return err
	}
	b.compare(kubectl, "kube: connect to first byte, p50, ms", times, "%.2f", "at most 0.5", func(r float64) bool { return r <= 0.5 })
	return nil
}

// kubeBurst has 200 connections come at once, each to its first byte.
func (b *bench) kubeBurst(_ context.Context, porthole, kubectl *peer) error {
	times, err := b.alternate([]dialer{porthole.dial, kubectl.dial}, func(d dialer) (float64, error) { return burst(d, 200) })
	if err != nil {
		return err
	}
	b.compare(kubectl, "kube: 200 at once, ms", times, "%.0f", "at most 1", func(r float64) bool { return r <= 1 })
	return nil
}

// burst returns the ms until n connections, made at once, have their first byte.
func burst(dial dialer, n int) (float64, error) {
	var wg sync.WaitGroup
	errs := make([]error, n)
	start := time.Now()
	for i := range n {
		wg.Go(func() {
			c, err := echoed(dial)
			if errs[i] = err; err == nil {
				defer c.Close()
			}
		})
	}
	wg.Wait()
	return time.Since(start).Seconds() * 1e3, errors.Join(errs...)
}

func (b *bench) kubeBulk(_ context.Context, porthole, kubectl *peer) error {
	for _, conns := range []int{1, 8} {
		ways := []*peer{porthole, kubectl}
		var rates, cpus [2][]float64
		for range b.runs {
			for i, p := range ways {
				before := cpuSeconds(p.cmd.Process.Pid)
				rate, err := b.downloads(p.dial, conns)
				if err != nil {
					return err
				}
				rates[i] = append(rates[i], rate)
				gib := float64(b.bytes) / (1 << 30)
				cpus[i] = append(cpus[i], (cpuSeconds(p.cmd.Process.Pid)-before)/gib)
			}
		}
		b.compare(kubectl, fmt.Sprintf("kube: download, %d at once, MB/s", conns), rates[:], "%.0f", "at least 1.5", func(r float64) bool { return r >= 1.5 })
		b.compare(kubectl, fmt.Sprintf("kube: client CPU, %d at once, s/GiB", conns), cpus[:], "%.2f", "at most 0.33", func(r float64) bool { return r <= 1.0/3 })
	}
	return nil
}

// downloads shares b.bytes between connections and returns MB/s in all.
func (b *bench) downloads(dial dialer, conns int) (float64, error) {
	part := *b
	part.bytes /= int64(conns)
	rates, errs := make([]float64, conns), make([]error, conns)
	var wg sync.WaitGroup
	for i := range conns {
		wg.Go(func() { rates[i], errs[i] = part.download(dial) })
	}
	wg.Wait()
	return slices.Min(rates) * float64(conns), errors.Join(errs...) // they began together
}

// kubeStall compares echo round trips with and without one reader that has
// stopped to read among many connections. kubectl freezes as a whole, so that
// there is nothing to measure.
func (b *bench) kubeStall(_ context.Context, porthole, _ *peer) error {
	const others = 31
	conns := make([]net.Conn, others)
	for i := range conns {
		var err error
		if conns[i], err = echoed(porthole.dial); err != nil {
			return err
		}
		defer conns[i].Close()
		time.Sleep(20 * time.Millisecond) // as people come: each finds a tunnel of its own
	}
	var without, with []float64
	for range b.runs {
		p99, err := echoP99(conns)
		if err != nil {
			return err
		}
		without = append(without, p99)
	}
	stalled, err := porthole.dial()
	if err != nil {
		return err
	}
	defer stalled.Close()
	if err := ask(stalled, b.bytes); err != nil {
		return err
	}
	time.Sleep(time.Second) // until everything on the way is full
	for range b.runs {
		p99, err := echoP99(conns)
		if err != nil {
			return err
		}
		with = append(with, p99)
	}
	ratio := median(with) / median(without)
	b.add(row{"kube: echo p99 of 31 beside a stalled reader, ms", fmt.Sprintf("%.2f", median(with)),
		fmt.Sprintf("%.2f (nobody stalled)", median(without)), fmt.Sprintf("%.2f", ratio), "at most 1.2", ratio <= 1.2})
	return nil
}

// echoP99 is the p99 in ms of 20 round trips on each connection, one after the other.
func echoP99(conns []net.Conn) (float64, error) {
	var times []float64
	one := []byte{1}
	for range 20 {
		for _, c := range conns {
			start := time.Now()
			_ = c.SetDeadline(start.Add(10 * time.Second))
			if _, err := c.Write(one); err != nil {
				return 0, err
			}
			if _, err := c.Read(one); err != nil {
				return 0, err
			}
			times = append(times, time.Since(start).Seconds()*1e3)
		}
	}
	return quantile(times, 0.99), nil
}

// kubeMemory makes many connections, one after the other, and looks at the peak.
func (b *bench) kubeMemory(_ context.Context, porthole, kubectl *peer) error {
	for _, p := range []*peer{porthole, kubectl} {
		if _, err := burst(p.dial, 200); err != nil {
			return err
		}
		if _, err := b.downloads(p.dial, 8); err != nil {
			return err
		}
	}
	ours, theirs := status(porthole.cmd.Process.Pid, "VmHWM")/1024, status(kubectl.cmd.Process.Pid, "VmHWM")/1024
	b.add(row{"kube: peak memory after a burst and 8 downloads, MiB", fmt.Sprint(ours), fmt.Sprint(theirs),
		fmt.Sprintf("%.2f", float64(ours)/float64(theirs)), "at most 60 MB", ours <= 57})
	return nil
}

// roundTrip is what the WAN adds to the way to the API server and back.
const roundTrip = 50 * time.Millisecond

// kubeWAN measures connecting over a WAN, in round trips.
func (b *bench) kubeWAN(ctx context.Context) error {
	u, err := url.Parse(b.cluster.server)
	if err != nil {
		return err
	}
	wan, err := startWAN(u.Host, roundTrip/2)
	if err != nil {
		return err
	}
	defer wan.Close()
	flags := []string{"--server", "https://" + wan.Addr().String(), "--tls-server-name", u.Hostname()}
	return b.withClients(ctx, b.cluster.kubectls[0], flags, func(_ context.Context, porthole, kubectl *peer) error {
		times, err := b.alternate([]dialer{porthole.dial, kubectl.dial}, func(d dialer) (float64, error) {
			p50, err := connectP50(d, 5)
			return p50 / float64(roundTrip.Milliseconds()), err
		})
		if err != nil {
			return err
		}
		ours := median(times[0])
		b.compare(kubectl, "kube: connect over 50 ms, round trips", times, "%.2f", "at most 1.15 trips", func(float64) bool { return ours <= 1.15 })
		return nil
	})
}

// compare adds a row of porthole against a kubectl, run by run.
func (b *bench) compare(kubectl *peer, figure string, values [][]float64, format, bar string, ok func(ratio float64) bool) {
	ratio := median(ratios(values[0], values[1]))
	b.add(row{figure, fmt.Sprintf(format, median(values[0])), fmt.Sprintf(format+" (%s)", median(values[1]), kubectl.name),
		fmt.Sprintf("%.2f", ratio), bar, ok(ratio)})
}
