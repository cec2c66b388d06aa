package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"

	"google.golang.org/grpc"
)

// components are what a process of a Node is made of while it runs: tasks that run at the
// same time until one of them fails, and what has to be closed in the end.
type components struct {
	ctx     context.Context // ends with the first failure
	stop    context.CancelCauseFunc
	tasks   sync.WaitGroup
	closers []func()
}

func newComponents(ctx context.Context) *components {
	c := &components{}
	c.ctx, c.stop = context.WithCancelCause(ctx)
	return c
}

// run runs a task, whose failure ends the others.
func (c *components) run(what string, serve func() error) {
	c.tasks.Go(func() {
		err := serve()
		for _, ended := range []error{nil, http.ErrServerClosed, net.ErrClosed, grpc.ErrServerStopped} {
			if errors.Is(err, ended) {
				return
			}
		}
		c.stop(fmt.Errorf("serve %s: %w", what, err))
	})
}

// onClose has close call f, before those that are given already.
func (c *components) onClose(f func()) { c.closers = append(c.closers, f) }

// owns has close close what was opened.
func (c *components) owns(opened interface{ Close() error }) {
	c.onClose(func() { _ = opened.Close() })
}

// close ends everything, and returns when all tasks have.
func (c *components) close() {
	c.stop(nil)
	for _, f := range slices.Backward(c.closers) {
		f()
	}
	c.tasks.Wait()
}

// failure is the error of the task that failed first, once ctx has ended.
func (c *components) failure() error {
	if err := context.Cause(c.ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}
