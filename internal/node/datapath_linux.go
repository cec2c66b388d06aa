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
	"google.golang.org/grpc/mem"

	"porthole.dev/porthole/internal/backoff"
)

const (
	// restartMin and restartMax are how long a data path that has ended stays so:
	// twice as long each time, unless it has lived for restartMax.
	restartMin = 100 * time.Millisecond
	restartMax = 10 * time.Second
	// endTime is how long it has to end by itself.
	endTime = 5 * time.Second
)

// dataPath is the process that carries the forwards, as its parent sees it: it is
// started, started again when it has ended, and called through a socket that only the two
// have.
type dataPath struct {
	upstream
	command  func() *exec.Cmd
	settings []byte // a Node, in JSON
	files    []*os.File
	metrics  prometheus.Gatherer // of this process, for the data path's page
	log      *slog.Logger

	conns  chan net.Conn // to the process that was started last, until it is used
	served atomic.Bool   // one of them has
}

// newDataPath prepares the process; the caller runs it, closes conn, and calls release
// in the end.
func newDataPath(n *Node, sockets *sockets, metrics prometheus.Gatherer) (d *dataPath, err error) {
	d = &dataPath{command: n.DataPath, metrics: metrics, log: n.logger(), conns: make(chan net.Conn, 1)}
	if d.settings, err = json.Marshal(n); err != nil {
		return nil, err
	}
	if d.files, err = sockets.files(); err != nil {
		return nil, err
	}
	d.upstream = upstream{name: "data path", address: "data-path", connect: d.takeConn, log: d.log}
	return d, d.init()
}

// release closes what run has used; it does nothing for nil.
func (d *dataPath) release() {
	if d != nil {
		d.discardConn()
		closeFiles(d.files)
	}
}

// run keeps a process running until ctx ends. It fails if the first one ends before it
// serves.
func (d *dataPath) run(ctx context.Context) error {
	// The kernel kills the process when the thread that has started it ends, by
	// PR_SET_PDEATHSIG of prctl(2): so this goroutine keeps its thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for pause := restartMin; ; pause = min(2*pause, restartMax) {
		began := time.Now()
		err := d.runOnce(ctx)
		if ctx.Err() != nil {
			if err != nil {
				d.log.Warn("node: end of the data path", "err", err)
			}
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
		if backoff.Sleep(ctx, pause, nil); ctx.Err() != nil {
			return nil
		}
	}
}

// runOnce starts a process and returns when it has ended. When ctx ends its connection is
// closed, on which it ends.
func (d *dataPath) runOnce(ctx context.Context) error {
	near, far, err := socketPair()
	if err != nil {
		return err
	}
	cmd := d.command()
	cmd.Stdin = bytes.NewReader(d.settings)
	cmd.ExtraFiles = append([]*os.File{far}, d.files...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true} // so that a terminal's Ctrl-C reaches the parent only
	cmd.WaitDelay = endTime
	err = cmd.Start()
	far.Close()
	if err != nil {
		near.Close()
		return err
	}
	d.discardConn()
	d.conns <- near
	defer context.AfterFunc(ctx, func() {
		d.discardConn()
		time.AfterFunc(endTime, func() { _ = cmd.Process.Kill() })
	})()
	return cmd.Wait()
}

// takeConn is the connection to the process that was started last.
func (d *dataPath) takeConn(ctx context.Context) (net.Conn, error) {
	select {
	case c := <-d.conns:
		return c, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// discardConn closes a connection that nobody took.
func (d *dataPath) discardConn() {
	select {
	case c := <-d.conns:
		c.Close()
	default:
	}
}

// awaitFirst returns when the data path serves, and whether it does so before ctx ends.
func (d *dataPath) awaitFirst(ctx context.Context) bool {
	serves := d.connectBefore(ctx)
	if serves {
		d.served.Store(true)
	}
	return serves
}

// answerMetrics makes the call parentMetricsMethod, and again when it has ended, until
// ctx ends.
func (d *dataPath) answerMetrics(ctx context.Context) {
	for ctx.Err() == nil {
		call, err := d.conn.NewStream(ctx, bidirectional, parentMetricsMethod, grpc.ForceCodecV2(frameCodec{}), grpc.WaitForReady(true))
		for err == nil {
			var asked frame
			if err = call.RecvMsg(&asked); err == nil {
				err = call.SendMsg(&frame{mem.BufferSlice{mem.SliceBuffer(encodeMetrics(d.metrics, d.log))}})
			}
		}
		backoff.Sleep(ctx, retryInterval, nil)
	}
}
