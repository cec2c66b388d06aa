package node

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"porthole.dev/porthole/internal/portforward"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

// BenchmarkStandstill measures what the process that carries forwards takes when three
// tunnels are full of connections that stand still: its peak, and the kernel's memory
// in all sockets of the machine, per connection, where buffers are as large as they get.
func BenchmarkStandstill(b *testing.B) {
	for _, bench := range []struct {
		name            string
		perTunnel       int
		upload, sockets bool
	}{
		{"port reads nothing", 1000, true, false},
		{"client reads nothing", 1000, false, false},
		{"sockets, port reads nothing", 30, true, true},
		{"sockets, client reads nothing", 30, false, true},
	} {
		b.Run(bench.name, func(b *testing.B) {
			for range b.N {
				standStill(b, bench.perTunnel, bench.upload, bench.sockets)
			}
		})
	}
}

func standStill(b *testing.B, perTunnel int, upload, sockets bool) {
	pod := testenv.NewPod(b)
	if !sockets { // the kernel's part would be several GiB
		err := pod.NS.Do(func() error {
			return os.WriteFile("/proc/sys/net/ipv4/tcp_wmem", []byte("4096 8192 8192"), 0)
		})
		if err != nil {
			b.Log("small buffers:", err)
		}
	}
	l := pod.Listen(b, "127.0.0.1:0")
	var work sync.WaitGroup
	work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if upload {
				b.Cleanup(func() { _ = c.Close() })
			} else {
				work.Go(func() { sendAll(c) })
			}
		}
	})
	r := startNode(b, pod, Node{})
	before := socketMemory(b)
	for range 3 {
		client := &portforward.Client{URL: r.url(b), Transport: &http.Transport{}, SPDYOnly: true, MaxTunnels: 1}
		b.Cleanup(func() { _ = client.Close() })
		for range perTunnel {
			c, err := client.Dial(b.Context(), target.TCPPort(testenv.Port(l)))
			if err != nil {
				b.Fatal(err)
			}
			if upload {
				work.Go(func() { sendAll(c.(net.Conn)) })
			}
		}
	}
	awaitStandstill(b)
	b.ReportMetric(float64(peakMemory(b))/(1<<20), "peak-MiB")
	b.ReportMetric(float64(socketMemory(b)-before)/float64(3*perTunnel)/(1<<10), "sockets-KiB/conn")
	r.stop()
	_ = l.Close()
}

// sendAll sends until nobody takes more.
func sendAll(c net.Conn) {
	for piece := make([]byte, 32<<10); ; {
		if _, err := c.Write(piece); err != nil {
			return
		}
	}
}

// awaitStandstill waits until the sockets' memory stays as it is.
func awaitStandstill(b *testing.B) {
	for last, same := -1, 0; same < 10; time.Sleep(300 * time.Millisecond) {
		now := socketMemory(b)
		if same++; max(now-last, last-now) > 1<<20 {
			same = 0
		}
		last = now
	}
}

// socketMemory is the kernel's memory in TCP sockets, in bytes.
func socketMemory(b *testing.B) int {
	text, err := os.ReadFile("/proc/net/sockstat")
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); fields[0] == "TCP:" {
			pages, _ := strconv.Atoi(fields[len(fields)-1])
			return pages * os.Getpagesize()
		}
	}
	return 0
}

// peakMemory is the peak of the data path that this process has started, in bytes.
func peakMemory(b *testing.B) int {
	paths, _ := filepath.Glob("/proc/[0-9]*/status")
	for _, path := range paths {
		text, _ := os.ReadFile(path)
		var name string
		var parent, peak int
		for line := range strings.Lines(string(text)) {
			_, _ = fmt.Sscanf(line, "Name: %s", &name)
			_, _ = fmt.Sscanf(line, "PPid: %d", &parent)
			_, _ = fmt.Sscanf(line, "VmHWM: %d", &peak)
		}
		if parent == os.Getpid() && name == "porthole-data" {
			return peak << 10
		}
	}
	b.Fatal("no data path")
	return 0
}

// BenchmarkUpload sends to a port that reads as fast as it can.
func BenchmarkUpload(b *testing.B) {
	const size = 256 << 20
	b.SetBytes(size)
	pod := testenv.NewPod(b)
	l := pod.Listen(b, "127.0.0.1:0")
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(struct{ io.Writer }{io.Discard}, c); _ = c.Close() }()
		}
	}()
	r := startNode(b, pod, Node{})
	client := &portforward.Client{URL: r.url(b), Transport: &http.Transport{}, SPDYOnly: true}
	defer client.Close()
	piece := make([]byte, 64<<10)
	for b.Loop() {
		c, err := client.Dial(b.Context(), target.TCPPort(testenv.Port(l)))
		if err != nil {
			b.Fatal(err)
		}
		for range size / len(piece) {
			if _, err := c.Write(piece); err != nil {
				b.Fatal(err)
			}
		}
		_ = c.CloseWrite()
		_, _ = io.Copy(io.Discard, c)
		_ = c.Close()
	}
}
