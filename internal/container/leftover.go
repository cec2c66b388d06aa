package container

import (
	"context"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"porthole.dev/porthole/internal/target"
)

// startTime is how long a helper's container may be there before it runs.
const startTime = time.Minute

// The kinds of Leftover.
const (
	LeftHelper = "helper" // a container
	LeftImage  = "image"
)

// Leftover is a container or an image of helpers that is in an engine.
type Leftover struct {
	Kind  string // LeftHelper or LeftImage
	Name  string
	Stays string // why it has to stay; "" for what nobody uses
	id    string
	api   *client.Client
}

// Leftovers returns what helpers have left in an engine, or use there. An engine that cannot have any has none. Errors: *EngineError.
func (o *Opener) Leftovers(ctx context.Context, scheme target.Scheme, engineContext string) ([]Leftover, error) {
	o.once.Do(o.init)
	e, err := o.engine(engineKey{scheme, engineContext})
	if err != nil {
		return nil, err
	}
	d, ok := e.engine.(*docker)
	if !ok {
		return nil, nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, findTime, ErrNoAnswer)
	defer cancel()
	left, err := leftIn(ctx, d.client)
	if err != nil {
		return nil, d.explain(ctx, err)
	}
	return left, nil
}

// leftIn returns what helpers have left behind an API, or use there.
func leftIn(ctx context.Context, api *client.Client) (all []Leftover, err error) {
	filters := client.Filters{}.Add("label", helperLabel)
	containers, err := api.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: filters})
	if err != nil {
		return nil, err
	}
	for _, c := range containers.Items {
		all = append(all, Leftover{Kind: LeftHelper, Name: c.ID[:min(len(c.ID), 12)], Stays: useOf(c), id: c.ID, api: api})
	}
	images, err := api.ImageList(ctx, client.ImageListOptions{Filters: filters})
	if err != nil {
		return nil, err
	}
	for _, i := range images.Items {
		left := Leftover{Kind: LeftImage, Name: i.ID, id: i.ID, api: api}
		if len(i.RepoTags) > 0 {
			left.Name = i.RepoTags[0]
		}
		if slices.ContainsFunc(containers.Items, func(c container.Summary) bool { return c.ImageID == i.ID }) {
			left.Stays = "a helper container has it"
		}
		all = append(all, left)
	}
	return all, nil
}

// useOf says who uses a helper's container. One that runs has somebody at its input, or ends soon.
func useOf(c container.Summary) string {
	switch {
	case c.State == container.StateRunning:
		return "a running porthole uses it, or it ends by itself within " + helperSilence.String()
	case time.Since(time.Unix(c.Created, 0)) < startTime:
		return "a running porthole may be about to start it"
	}
	return ""
}

// Remove removes it from its engine, unless somebody has begun to use it.
func (l Leftover) Remove(ctx context.Context) (err error) {
	if l.Kind == LeftImage {
		_, err = l.api.ImageRemove(ctx, l.id, client.ImageRemoveOptions{})
	} else {
		_, err = l.api.ContainerRemove(ctx, l.id, client.ContainerRemoveOptions{})
	}
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}
