package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// dialer opens a connection to the server inside, one way or another.
type dialer func() (net.Conn, error)

// bulk measures one download at a time.
func (b *bench) bulk(ctx context.Context) error {
	porthole, err := b.startPorthole(ctx, b.inside.tcp())
	if err != nil {
		return err
	}
	defer porthole.close()
	minimal, err := b.startMinimal(ctx)
	if err != nil {
		return err
	}
	defer minimal.close()
	rates, err := b.alternate([]dialer{porthole.dial, minimal.dial, b.inside.dial}, b.download)
	if err != nil {
		return err
	}
	for i, versus := range []struct {
		peer string
		bar  float64
	}{{"minimal Go splice proxy", 0.9}, {"inside the namespace", 0.6}} {
		ratio := median(ratios(rates[0], rates[i+1]))
		b.add(row{
			figure:   "download, MB/s, against: " + versus.peer,
			porthole: fmt.Sprintf("%.0f", median(rates[0])),
			peer:     fmt.Sprintf("%.0f", median(rates[i+1])),
			ratio:    fmt.Sprintf("%.2f", ratio),
			bar:      fmt.Sprintf("at least %.1f", versus.bar),
			ok:       ratio >= versus.bar,
		})
	}
	return nil
}

// alternate takes each measurement in turn, after one that does not count: forwards and backwards, so that none is always first.
func (b *bench) alternate(ways []dialer, measure func(dialer) (float64, error)) ([][]float64, error) {
	figures := make([][]float64, len(ways))
	for run := range b.runs + 1 {
		for i := range ways {
			if run%2 == 1 {
				i = len(ways) - 1 - i
			}
			f, err := measure(ways[i])
			if err != nil {
				return nil, err
			}
			if run > 0 {
				figures[i] = append(figures[i], f)
			}
		}
	}
	return figures, nil
}

// download returns MB/s, up to the last byte: a stock node tells of the end a
// second after it, which would be a second more for everybody.
func (b *bench) download(dial dialer) (float64, error) {
	c, err := dial()
	if err != nil {
		return 0, err
	}
	defer c.Close()
	start := time.Now()
	if err := ask(c, b.bytes); err != nil {
		return 0, err
	}
	buf := make([]byte, chunk)
	for n := int64(0); n < b.bytes; {
		r, err := c.Read(buf)
		n += int64(r)
		if err != nil {
			return 0, fmt.Errorf("%d bytes came, want %d: %w", n, b.bytes, err)
		}
	}
	took := time.Since(start)
	if n, err := c.Read(buf); n > 0 || !errors.Is(err, io.EOF) {
		return 0, fmt.Errorf("%d bytes too many: %w", n, err)
	}
	return float64(b.bytes) / 1e6 / took.Seconds(), nil
}

// connect measures from dial to the first byte echoed, one after the other.
func (b *bench) connect(ctx context.Context) error {
	porthole, err := b.startPorthole(ctx, b.inside.tcp())
	if err != nil {
		return err
	}
	defer porthole.close()
	socat, err := b.startSocat(ctx)
	if err != nil {
		return err
	}
	defer socat.close()
	minimal, err := b.startMinimal(ctx)
	if err != nil {
		return err
	}
	defer minimal.close()
	ways := []dialer{porthole.dial, socat.dial, minimal.dial, b.inside.dial}
	times, err := b.alternate(ways, func(d dialer) (float64, error) { return connectP50(d, 100) })
	if err != nil {
		return err
	}
	p50, ratio := median(times[0]), median(ratios(times[0], times[1]))
	b.add(row{"connect to first byte, p50, ms", fmt.Sprintf("%.3f", p50), fmt.Sprintf("%.3f (socat, nsenter, socat)", median(times[1])),
		fmt.Sprintf("1/%.0f", 1/ratio), "at most 0.4 ms and 1/15", p50 <= 0.4 && ratio <= 1.0/15})
	for i, peer := range []string{"minimal Go splice proxy", "inside the namespace"} {
		b.add(row{figure: "connect to first byte, p50, ms", porthole: fmt.Sprintf("%.3f", p50),
			peer: fmt.Sprintf("%.3f (%s)", median(times[i+2]), peer), ratio: fmt.Sprintf("%.2f", median(ratios(times[0], times[i+2]))), bar: "-", ok: true})
	}
	return nil
}

// connectP50 returns the median of n connections in ms.
func connectP50(dial dialer, n int) (float64, error) {
	times := make([]float64, n)
	for i := range times {
		start := time.Now()
		c, err := echoed(dial)
		if err != nil {
			return 0, err
		}
		times[i] = time.Since(start).Seconds() * 1e3
		_ = c.Close()
	}
	return median(times), nil
}

// echoed is a connection over which one byte went there and back.
func echoed(dial dialer) (net.Conn, error) {
	c, err := dial()
	if err != nil {
		return nil, err
	}
	// The head of the conversation and the byte to echo leave together.
	if _, err = c.Write(append(make([]byte, 8), 1)); err == nil {
		_, err = c.Read(make([]byte, 1))
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// idleConnections measures what open connections cost while nothing moves.
func (b *bench) idleConnections(ctx context.Context) error {
	porthole, err := b.startPorthole(ctx, b.inside.tcp())
	if err != nil {
		return err
	}
	defer porthole.close()
	pid := porthole.cmd.Process.Pid
	before, err := connectP50(porthole.dial, 500)
	if err != nil {
		return err
	}
	rss := status(pid, "VmRSS")
	conns := make([]net.Conn, b.idle)
	for i := range conns {
		if conns[i], err = echoed(porthole.dial); err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
		defer conns[i].Close()
	}
	each := float64(status(pid, "VmRSS")-rss) / float64(b.idle)
	after, err := connectP50(porthole.dial, 500)
	if err != nil {
		return err
	}
	threads := status(pid, "Threads")
	name := fmt.Sprintf("%d idle connections: ", b.idle)
	b.add(row{name + "threads", strconv.Itoa(threads), "-", "-", "at most 20", threads <= 20})
	b.add(row{name + "memory each, KiB", fmt.Sprintf("%.1f", each), "-", "-", "at most 40", each <= 40})
	b.add(row{name + "connect p50, ms", fmt.Sprintf("%.3f", after), fmt.Sprintf("%.3f (none open)", before),
		fmt.Sprintf("%.2f", after/before), "at most 2", after <= 2*before})
	return nil
}

// cpuSeconds is what a process has used, user and system, by its own clock (clock_getcpuclockid(3)); 0 where there is none.
func cpuSeconds(pid int) float64 {
	var used unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &used); err != nil {
		return 0
	}
	return float64(used.Nano()) / 1e9
}

// status is a number of /proc/PID/status, 0 where there is none.
func status(pid int, key string) int {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, key+":"); ok {
			n, _ := strconv.Atoi(strings.Fields(value)[0])
			return n
		}
	}
	return 0
}
