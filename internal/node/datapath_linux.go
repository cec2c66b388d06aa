package node

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/mem"
)

const (
	// restartMin and restartMax are how long a data path that has ended is left so:
	// twice as long each time, unless it has lived for restartMax.
	restartMin = 100 * time.Millisecond
	restartMax = 10 * time.Second
	// endTime is how long it has to end by itself.
	endTime = 5 * time.Second
)

// dataPath is the process that carries the forwards, as its parent sees it: started,
// started again when it has ended, and called through a socket that only the two have.
type dataPath struct {
	upstream
	command  func() *exec.Cmd
	settings []byte // a Node, in JSON
	files    []*os.File
	counts   prometheus.Gatherer // what the page of metrics has from this process
	log      *slog.Logger

	conns  chan net.Conn // to the process that was started last, until it is called
	served atomic.Bool   // it did once
}

// newDataPath makes ready to start the process; the caller runs it, closes conn, and
// calls release in the end.
func newDataPath(n *Node, sockets *sockets, counts prometheus.Gatherer) (d *dataPath, err error) {
	d = &dataPath{command: n.DataPath, counts: counts, log: n.logger(), conns: make(chan net.Conn, 1)}
	if d.settings, err = json.Marshal(n); err != nil {
		return nil, err
	}
	if d.files, err = sockets.files(); err != nil {
		return nil, err
	}
	d.upstream = upstream{name: "data path", address: "data-path", connect: d.take, log: d.log}
	return d, d.init()
}

// release gives up what run has used; it is fine for nil, too.
func (d *dataPath) release() {
	if d != nil {
		d.forget()
		closeFiles(d.files)
	}
}

// run keeps a process running until ctx ends. It fails if the first one does not
// come to serve.
func (d *dataPath) run(ctx context.Context) error {
	// The kernel ends the process with the thread that has started it, PR_SET_PDEATHSIG
	// of prctl(2): this one has to stay.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for pause := restartMin; ; pause = min(2*pause, restartMax) {
		began := time.Now()
		err := d.once(ctx)
		if ctx.Err() != nil {
			d.warn(err)
			return nil
		}
		if !d.served.Load() {
			return fmt.Errorf("it has ended: %w", err)
		}
		if time.Since(began) >= restartMax {
			pause = restartMin
		}
		d.failure.Store(&err)
		d.log.Error("node: the data path has ended, and its forwards with it", "err", err, "again_in", pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
	}
}

func (d *dataPath) warn(err error) {
	if err != nil {
		d.log.Warn("node: end of the data path", "err", err)
	}
}

// once starts a process and returns when it has ended. When ctx ends it is let go,
// which it takes for its own end.
func (d *dataPath) once(ctx context.Context) error {
	near, far, err := socketPair()
	if err != nil {
		return err
	}
	cmd := d.command()
	cmd.Stdin = bytes.NewReader(d.settings)
	cmd.ExtraFiles = append([]*os.File{far}, d.files...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true} // a terminal's Ctrl-C is the parent's
	cmd.WaitDelay = endTime
	err = cmd.Start()
	far.Close()
	if err != nil {
		near.Close()
		return err
	}
	d.forget()
	d.conns <- near
	defer context.AfterFunc(ctx, func() {
		d.forget()
		time.AfterFunc(endTime, func() { _ = cmd.Process.Kill() })
	})()
	return cmd.Wait()
}

// take is the connection to the process that was started last.
func (d *dataPath) take(ctx context.Context) (net.Conn, error) {
	select {
	case c := <-d.conns:
		return c, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// forget closes the connection that nobody took.
func (d *dataPath) forget() {
	select {
	case c := <-d.conns:
		c.Close()
	default:
	}
}

// awaitFirst returns when the data path serves, and whether it does so before ctx ends.
func (d *dataPath) awaitFirst(ctx context.Context) bool {
	for state := d.conn.GetState(); state != connectivity.Ready; state = d.conn.GetState() {
		d.conn.Connect()
		if !d.conn.WaitForStateChange(ctx, state) {
			return false
		}
	}
	d.served.Store(true)
	return true
}

// countsMethod is a call by which the data path asks its parent: each message that
// comes back is answered with the parent's metrics.
const countsMethod = "/porthole.node.DataPath/Counts"

// answerCounts answers that until ctx ends.
func (d *dataPath) answerCounts(ctx context.Context) {
	for ctx.Err() == nil {
		asks, err := d.conn.NewStream(ctx, bidirectional, countsMethod, grpc.ForceCodecV2(frameCodec{}), grpc.WaitForReady(true))
		for err == nil {
			var ask frame
			if err = asks.RecvMsg(&ask); err == nil {
				err = asks.SendMsg(&frame{mem.BufferSlice{mem.SliceBuffer(encodeMetrics(d.counts, d.log))}})
			}
		}
		select {
		case <-time.After(retry): // it has ended, and is started again
		case <-ctx.Done():
		}
	}
}
