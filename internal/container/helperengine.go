package container

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
)

// helperEngine is an engine in which helpers are started. Close it after the last of them.
type helperEngine struct {
	api     *client.Client
	way     engineTransport // of api
	version string          // of this program
	// program is a porthole for the engine's architecture; "" means this one or one that is beside it.
	program string
	silence time.Duration // as for spdy.Config.PingTimeout

	work sync.WaitGroup // containers that are being removed
	tidy sync.Once

	mu    sync.Mutex
	image *helperImage // nil before the first
}

// errNoHelpers means that an engine starts no helper containers.
var errNoHelpers = errors.New("no helper container can be started in it: only docker and podman have an attach")

// helperEngine returns what starts helpers in the engine.
func (e *sharedEngine) helperEngine(o *Opener) (*helperEngine, error) {
	d, ok := e.engine.(*docker)
	if !ok {
		return nil, errNoHelpers
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.helpers == nil {
		e.helpers = &helperEngine{api: d.client, way: d.way, version: o.Version, program: o.AgentBinary, silence: max(cmp.Or(o.Silence, helperSilence), 0)}
	}
	return e.helpers, nil
}

// closeHelpers waits until the containers of all helpers are removed.
func (e *sharedEngine) closeHelpers() {
	e.mu.Lock()
	helpers := e.helpers
	e.mu.Unlock()
	if helpers != nil {
		helpers.Close()
	}
}

// Close waits until the containers of all helpers are removed.
func (e *helperEngine) Close() { e.work.Wait() }

// create makes a container, and its image if the engine does not have that.
func (e *helperEngine) create(ctx context.Context, config func(image string) *container.Config, host *container.HostConfig) (id string, err error) {
	image, err := e.findImage(ctx)
	if err != nil {
		return "", err
	}
	options := client.ContainerCreateOptions{Config: config(image.name), HostConfig: host}
	id, err = e.createNow(ctx, options)
	if errdefs.IsNotFound(err) {
		if err := e.load(ctx, image); err != nil {
			return "", fmt.Errorf("load its image: %w", err)
		}
		id, err = e.createNow(ctx, options)
	}
	return id, err
}

// createNow makes a container whose image is there. The engine makes it also when nobody waits for the answer any more, and
// then only the answer says which one is to be removed.
func (e *helperEngine) createNow(ctx context.Context, options client.ContainerCreateOptions) (id string, err error) {
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	answered, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTime)
	defer cancel()
	made, err := e.api.ContainerCreate(answered, options)
	if err == nil && ctx.Err() != nil {
		e.remove(made.ID)
		return "", context.Cause(ctx)
	}
	return made.ID, err
}

// findImage returns the image for the engine's architecture.
func (e *helperEngine) findImage(ctx context.Context) (*helperImage, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.image != nil {
		return e.image, nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, findTime, ErrNoAnswer)
	defer cancel()
	engine, err := e.api.ServerVersion(ctx, client.ServerVersionOptions{})
	if err != nil {
		return nil, cmp.Or(context.Cause(ctx), err)
	}
	program, err := agentProgram(e.program, engine.Arch)
	if err != nil {
		return nil, err
	}
	e.image, err = newHelperImage(program, engine.Arch)
	return e.image, err
}

// loadTime is how long an engine may take to load an image, which may have a long way to go.
const loadTime = 10 * time.Minute

// load hands the engine the image.
func (e *helperEngine) load(ctx context.Context, image *helperImage) error {
	ctx, cancel := context.WithTimeoutCause(ctx, loadTime, ErrNoAnswer)
	defer cancel()
	archive, err := image.archive()
	if err != nil {
		return err
	}
	answer, err := e.api.ImageLoad(ctx, archive, client.ImageLoadWithQuiet(true))
	if err != nil {
		return err
	}
	defer answer.Close()
	_, err = io.Copy(io.Discard, answer) // until it is loaded; what was wrong shows when it is used
	return err
}

// remove removes the container of a helper whose input has ended, in the background. Usually it ends by that, and the engine
// removes it.
func (e *helperEngine) remove(id string) {
	e.work.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), removeTime)
		defer cancel()
		ending, stop := context.WithTimeout(ctx, helperEnd)
		defer stop()
		wait := e.api.ContainerWait(ending, id, client.ContainerWaitOptions{Condition: container.WaitConditionRemoved})
		select {
		case <-wait.Result:
			return
		case err := <-wait.Error:
			if errdefs.IsNotFound(err) {
				return
			}
		}
		_, _ = e.api.ContainerRemove(ctx, id, client.ContainerRemoveOptions{Force: true})
	})
}

// tidyOnce removes, in the background and once, what helpers of dead portholes and of other versions have left in the engine.
func (e *helperEngine) tidyOnce() {
	e.tidy.Do(func() {
		e.work.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), removeTime)
			defer cancel()
			left, _ := leftIn(ctx, e.api)
			for _, l := range left {
				if l.Stays == "" && l.Name != e.image.name {
					_ = l.Remove(ctx)
				}
			}
		})
	})
}
