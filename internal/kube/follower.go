package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"

	"porthole.dev/porthole/internal/backoff"
)

const (
	// pollPause is between two looks of a user who may not watch.
	pollPause = time.Second
	// watchTime is how long one watch lasts. Then everything is listed anew,
	// so that a mistake does not last longer.
	watchTime = 5 * time.Minute
	// calmTime is how long a watch must have lasted for the next to begin at once.
	calmTime = 5 * time.Second
)

// object is a type that the client knows.
type object interface {
	runtime.Object
	metav1.Object
}

// query asks for the objects of one type with some labels, or for the one with a name.
type query struct {
	labels string
	name   string
}

func (q query) options() metav1.ListOptions {
	o := metav1.ListOptions{LabelSelector: q.labels}
	if q.name != "" {
		o.FieldSelector = fields.OneTermEqualSelector("metadata.name", q.name).String()
	}
	return o
}

// access is what the user may do, from most to least.
type access int

const (
	watching access = iota
	listing
	getting
)

// follower keeps up with objects of the API server, for as long as run runs.
type follower[T object] struct {
	cluster   *Cluster
	resource  schema.GroupVersionResource
	namespace string
	list      func() runtime.Object // an empty list of Ts
	single    func() T              // an empty T
	// query is called before each list, since what is asked for may change.
	query func(ctx context.Context) (query, error)
	// update is told all objects after each change, in the order of their names.
	update func([]T)
	// failed is told why update is not, and nil once it will be again.
	failed func(error)
	// again, unless nil, says that what query asks for has changed.
	again <-chan struct{}
	log   *slog.Logger

	asked   query // last
	access  access
	proven  bool // a watch has begun once: that one is refused will pass
	listed  bool // the same of lists
	known   map[string]T
	version string // of known, for the watch
}

// start lists once, and finds out on the way what the user may do. Errors are
// those of Cluster; a single object that does not exist is none.
func (f *follower[T]) start(ctx context.Context) error {
	ctx, cancel := f.cluster.foreground(ctx)
	defer cancel()
	return f.look(ctx)
}

// run follows until ctx ends. What fails is tried again, whatever it is: a server
// that starts may well refuse what it grants a second later.
func (f *follower[T]) run(ctx context.Context) {
	var pause backoff.Backoff
	for ctx.Err() == nil {
		began := time.Now()
		f.listen(ctx)
		if time.Since(began) > calmTime {
			pause.Reset()
		} else {
			backoff.Sleep(ctx, pauseAfter(&pause, nil), nil)
		}
		for err := f.renew(ctx); err != nil && ctx.Err() == nil; err = f.renew(ctx) {
			back := f.cluster.recovery.wait()
			backoff.Sleep(ctx, pauseAfter(&pause, err), back)
			f.cluster.retries.wait(ctx, back)
		}
	}
}

// renew looks again, within a limit.
func (f *follower[T]) renew(ctx context.Context) error {
	ctx, cancel := f.cluster.background(ctx)
	defer cancel()
	err := f.look(ctx)
	f.failed(err)
	return err
}

// look reads everything that the query asks for.
func (f *follower[T]) look(ctx context.Context) error {
	q, err := f.query(ctx)
	if err != nil {
		return err
	}
	f.asked = q
	if f.access == getting {
		return f.lookAt(ctx, q.name)
	}
	list := f.list()
	err = f.cluster.list(ctx, f.resource, f.namespace, q.options(), list)
	if errors.Is(err, ErrForbidden) && q.name != "" && !f.listed {
		f.access = getting
		return f.lookAt(ctx, q.name)
	}
	if err != nil {
		return err
	}
	f.listed = true
	f.known = map[string]T{}
	err = meta.EachListItem(list, func(item runtime.Object) error {
		f.learn(item)
		return nil
	})
	if m, ok := list.(metav1.ListInterface); ok {
		f.version = m.GetResourceVersion()
	}
	f.tell()
	return err
}

// lookAt reads one object, for a user who may do no more.
func (f *follower[T]) lookAt(ctx context.Context, name string) error {
	one := f.single()
	err := f.cluster.get(ctx, f.resource, f.namespace, name, one)
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	f.known = map[string]T{}
	if err == nil {
		f.learn(one)
	}
	f.tell()
	return nil
}

func (f *follower[T]) learn(item runtime.Object) {
	if o, ok := item.(T); ok {
		o.SetManagedFields(nil) // half of the object, and of no use here
		f.known[o.GetName()] = o
	}
}

func (f *follower[T]) tell() {
	all := slices.Collect(maps.Values(f.known))
	slices.SortFunc(all, func(a, b T) int { return cmp.Compare(a.GetName(), b.GetName()) })
	f.update(all)
}

// listen hears what changes, until it is time to look again.
func (f *follower[T]) listen(ctx context.Context) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if f.again != nil {
		go func() {
			select {
			case <-f.again:
				stop()
			case <-ctx.Done():
			}
		}()
	}
	if f.access == watching {
		err := f.watch(ctx)
		f.log.Debug("watch ended", "resource", f.resource.Resource, "err", err)
		if !errors.Is(err, ErrForbidden) || f.proven {
			return
		}
		f.log.Info("not allowed to watch, will ask again and again", "resource", f.resource.Resource)
		f.access = listing
	}
	select {
	case <-time.After(pollPause):
	case <-ctx.Done():
	}
}

// watch hears of changes until the server ends it or the connection breaks.
func (f *follower[T]) watch(ctx context.Context) error {
	options := f.asked.options()
	seconds := int64(watchTime / time.Second)
	options.Watch, options.TimeoutSeconds, options.ResourceVersion = true, &seconds, f.version
	stream, err := f.cluster.request(http.MethodGet, f.resource, f.namespace).
		VersionedParams(&options, f.cluster.params).Watch(ctx)
	if err != nil {
		return f.cluster.failed(ctx, err, apiAction{"watch", f.resource.GroupResource(), "", f.namespace, f.asked.name})
	}
	defer stream.Stop()
	f.proven = true
	for event := range stream.ResultChan() {
		if event.Type == watch.Error {
			return fmt.Errorf("watch: %w", apierrors.FromObject(event.Object))
		}
		f.apply(event)
	}
	return nil
}

func (f *follower[T]) apply(event watch.Event) {
	o, ok := event.Object.(T)
	switch {
	case !ok:
		return
	case event.Type == watch.Deleted:
		delete(f.known, o.GetName())
	default:
		f.learn(o)
	}
	f.tell()
}
