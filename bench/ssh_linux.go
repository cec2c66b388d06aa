package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"porthole.dev/porthole/internal/testenv"
)

// otherHost is this host by way of a real sshd on loopback, with a server that is reached there.
type otherHost struct {
	*bench
	sshd   *testenv.SSHServer
	server *exec.Cmd
	port   string // of the server
	up     bool   // the sshd is
}

// ssh measures targets of another host, beside `ssh -L`.
func (b *bench) ssh(ctx context.Context) error {
	if _, err := testenv.SSHD(); err != nil {
		fmt.Fprintf(os.Stderr, "ssh: no sshd: %v: left out\n", err)
		return nil
	}
	o, err := b.startOtherHost(ctx)
	if err != nil {
		return err
	}
	defer o.close()
	if err := o.withBoth(ctx, nil, o.downloads, o.connects, o.stall); err != nil {
		return err
	}
	wan, err := startWAN(fmt.Sprintf("%s:%d", o.sshd.Address, o.sshd.Port), roundTrip/2)
	if err != nil {
		return err
	}
	defer wan.Close()
	options := []string{"-o", fmt.Sprintf("HostKeyAlias=[%s]:%d", o.sshd.Address, o.sshd.Port), "-o", fmt.Sprintf("Port=%d", wan.Addr().(*net.TCPAddr).Port)}
	return o.withBoth(ctx, options, o.roundTrips)
}

// withBoth starts porthole and ssh, with options of ssh, and takes measurements of them.
func (o *otherHost) withBoth(ctx context.Context, options []string, measures ...func(porthole, forward *peer) error) error {
	porthole, err := o.startPorthole(ctx, options)
	if err != nil {
		return err
	}
	defer porthole.close()
	forward, err := o.startForward(ctx, options)
	if err != nil {
		return err
	}
	defer forward.close()
	for _, measure := range measures {
		if err := measure(porthole, forward); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) startOtherHost(ctx context.Context) (o *otherHost, err error) {
	dir, err := os.MkdirTemp("", "porthole-bench-")
	if err != nil {
		return nil, err
	}
	o = &otherHost{bench: b, sshd: &testenv.SSHServer{Address: "127.0.0.1", Dir: dir}}
	defer func() {
		if err != nil {
			o.close()
		}
	}()
	o.server = exec.CommandContext(ctx, "/proc/self/exe", "serve", "0")
	o.server.Stderr = os.Stderr
	if o.port, err = startAndRead(o.server); err != nil {
		return o, err
	}
	if o.sshd.Port, err = freePort(); err != nil {
		return o, err
	}
	if err := o.sshd.Start(); err != nil {
		return o, err
	}
	o.up = true
	return o, nil
}

func (o *otherHost) close() {
	if o.server.Process != nil {
		_ = o.server.Process.Kill()
		_ = o.server.Wait()
	}
	if o.up {
		o.sshd.Stop()
	}
	_ = os.RemoveAll(o.sshd.Dir)
}

// startPorthole starts `porthole forward --host`.
func (o *otherHost) startPorthole(ctx context.Context, options []string) (*peer, error) {
	program, err := filepath.Abs(o.porthole)
	if err != nil {
		return nil, err
	}
	ssh, err := exec.LookPath("ssh")
	if err != nil {
		return nil, err
	}
	script := fmt.Sprintf("#!/bin/sh\nexec %s -F %s %s \"$@\"\n", ssh, o.sshd.File("config"), strings.Join(options, " "))
	if err := os.WriteFile(o.sshd.File("ssh"), []byte(script), 0o700); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, program, "forward", "--address", "127.0.0.1", "--host", "ssh://box", "--remote-command", program,
		"pid://"+strconv.Itoa(o.server.Process.Pid), ":"+o.port)
	cmd.Env = append(os.Environ(), "PATH="+o.sshd.Dir+":"+os.Getenv("PATH"))
	return startPortholeAs(cmd)
}

// startForward starts `ssh -L`.
func (o *otherHost) startForward(ctx context.Context, options []string) (*peer, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	args := append([]string{"-F", o.sshd.File("config"), "-N", "-L", fmt.Sprintf("127.0.0.1:%d:127.0.0.1:%s", port, o.port)}, options...)
	cmd := exec.CommandContext(ctx, "ssh", append(args, "box")...)
	return startListening(cmd, fmt.Sprintf("127.0.0.1:%d", port))
}

func (o *otherHost) downloads(porthole, forward *peer) error {
	rates, err := o.alternate([]dialer{porthole.dial, forward.dial}, o.download)
	if err != nil {
		return err
	}
	ratio := median(ratios(rates[0], rates[1]))
	o.add(row{"another host: download, MB/s", fmt.Sprintf("%.0f", median(rates[0])), fmt.Sprintf("%.0f (ssh -L)", median(rates[1])),
		fmt.Sprintf("%.2f", ratio), "at least 0.9", ratio >= 0.9})
	return nil
}

func (o *otherHost) connects(porthole, forward *peer) error {
	times, err := o.alternate([]dialer{porthole.dial, forward.dial}, func(d dialer) (float64, error) { return connectP50(d, 100) })
	if err != nil {
		return err
	}
	ratio := median(ratios(times[0], times[1]))
	o.add(row{"another host: connect to first byte, p50, ms", fmt.Sprintf("%.2f", median(times[0])), fmt.Sprintf("%.2f (ssh -L)", median(times[1])),
		fmt.Sprintf("%.2f", ratio), "at most 1", ratio <= 1})
	return nil
}

// roundTrips measures connecting over a WAN, in round trips.
func (o *otherHost) roundTrips(porthole, forward *peer) error {
	trips, err := o.alternate([]dialer{porthole.dial, forward.dial}, func(d dialer) (float64, error) {
		p50, err := connectP50(d, 5)
		return p50 / float64(roundTrip.Milliseconds()), err
	})
	if err != nil {
		return err
	}
	ratio := median(ratios(trips[0], trips[1]))
	o.add(row{"another host: connect over 50 ms, round trips", fmt.Sprintf("%.2f", median(trips[0])), fmt.Sprintf("%.2f (ssh -L)", median(trips[1])),
		fmt.Sprintf("%.2f", ratio), "at most 1", ratio <= 1})
	return nil
}

// stall compares echo round trips with and without a reader that has stopped to read.
func (o *otherHost) stall(porthole, forward *peer) error {
	var texts []string
	var ours float64
	for _, p := range []*peer{porthole, forward} {
		without, with, err := o.besideStalled(p.dial)
		if err != nil {
			return err
		}
		ratio := median(ratios(with, without))
		if p == porthole {
			ours = ratio
		}
		texts = append(texts, fmt.Sprintf("%.2f beside it, %.2f without", median(with), median(without)))
	}
	o.add(row{"another host: echo p99 of 20 beside a stalled reader, ms", texts[0], texts[1] + " (ssh -L)",
		fmt.Sprintf("%.2f of without", ours), "at most 1.2 of without", ours <= 1.2})
	return nil
}

// besideStalled takes the echoes of many connections in turn, without and with a stalled one.
func (o *otherHost) besideStalled(dial dialer) (without, with []float64, err error) {
	conns, err := openEchoes(dial, 20)
	defer closeAll(conns)
	if err != nil {
		return nil, nil, err
	}
	for range o.runs {
		p99, err := echoP99(conns)
		if err != nil {
			return nil, nil, err
		}
		without = append(without, p99)
		stalled, err := dial()
		if err != nil {
			return nil, nil, err
		}
		err = ask(stalled, 1<<40)
		time.Sleep(500 * time.Millisecond) // until everything on the way is full
		if err == nil {
			p99, err = echoP99(conns)
		}
		stalled.Close()
		if err != nil {
			return nil, nil, err
		}
		with = append(with, p99)
	}
	return without, with, nil
}
