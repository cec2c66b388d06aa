package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
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
	// pollPause is between two reads for a user who may not watch.
	pollPause = time.Second
	// watchTime is how long one watch lasts. Then everything is listed anew, so
	// that nothing that was missed stays so for longer.
	watchTime = 5 * time.Minute
	// calmTime is how long a watch must have lasted for the next to begin at once.
	calmTime = 5 * time.Second
)

// apiObject is a type of objects that the client knows.
type apiObject interface {
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

// follower keeps up with objects in a route's namespace, from read on for as long as
// run runs.
type follower[T apiObject] struct {
	route    *Route
	resource schema.GroupVersionResource
	list     runtime.Object // an empty list of Ts
	single   T              // an empty T
	asked    query
	// query, unless nil, is what asked is set to before each list, since it may change.
	query func(ctx context.Context) (query, error)
	// update gets all objects after each change, in the order of their names.
	update func([]T)
	// failed gets the error when objects cannot be read, and nil when they can be again.
	failed func(error)
	// requery, unless nil, says that what query asks for has changed.
	requery <-chan struct{}

	access    access
	mayWatch  bool // it was allowed once: a refusal will pass
	mayList   bool // likewise
	known     map[string]T
	watchFrom string // the version of known
}

// run follows until the route is closed. What fails is tried again, whatever the error:
// a server that starts may well refuse what it grants a second later.
func (f *follower[T]) run() {
	ctx, cluster := f.route.life, f.route.Cluster
	var pause backoff.Backoff
	for ctx.Err() == nil {
		began := time.Now()
		f.awaitChange(ctx)
		if time.Since(began) > calmTime {
			pause.Reset()
		} else {
			backoff.Sleep(ctx, pauseAfter(&pause, nil), nil)
		}
		for err := f.renew(ctx); err != nil && ctx.Err() == nil; err = f.renew(ctx) {
			cluster.waitToRetry(ctx, pauseAfter(&pause, err), cluster.recovery.wait())
		}
	}
}

// renew reads everything again, within a limit.
func (f *follower[T]) renew(ctx context.Context) error {
	ctx, cancel := f.route.Cluster.background(ctx)
	defer cancel()
	err := f.read(ctx)
	f.failed(err)
	return err
}

// read reads everything that is asked for, and finds out on the way what the user may
// do. That a single object does not exist is no error.
func (f *follower[T]) read(ctx context.Context) (err error) {
	cluster, namespace := f.route.Cluster, f.route.Namespace
	ctx, cancel := cluster.foreground(ctx)
	defer cancel()
	if f.query != nil {
		if f.asked, err = f.query(ctx); err != nil {
			return err
		}
	}
	f.known = map[string]T{}
	if f.access != getting {
		list := f.list.DeepCopyObject()
		err = cluster.list(ctx, f.resource, namespace, f.asked.options(), list)
		switch {
		case err == nil:
			f.mayList = true
			f.watchFrom = list.(metav1.ListInterface).GetResourceVersion()
			_ = meta.EachListItem(list, func(item runtime.Object) error {
				f.store(item.(T))
				return nil
			})
		case errors.Is(err, ErrForbidden) && f.asked.name != "" && !f.mayList:
			f.access = getting
		default:
			return err
		}
	}
	if f.access == getting {
		one := f.single.DeepCopyObject().(T)
		switch err = cluster.get(ctx, f.resource, namespace, f.asked.name, one); {
		case err == nil:
			f.store(one)
		case !apierrors.IsNotFound(err):
			return err
		}
	}
	f.publish()
	return nil
}

func (f *follower[T]) store(o T) {
	o.SetManagedFields(nil) // half of the object, and of no use here
	f.known[o.GetName()] = o
}

// publish hands all objects to update.
func (f *follower[T]) publish() {
	all := slices.Collect(maps.Values(f.known))
	slices.SortFunc(all, func(a, b T) int { return cmp.Compare(a.GetName(), b.GetName()) })
	f.update(all)
}

// awaitChange follows changes, or waits, until everything is to be read again.
func (f *follower[T]) awaitChange(ctx context.Context) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if f.requery != nil {
		go func() {
			select {
			case <-f.requery:
				stop()
			case <-ctx.Done():
			}
		}()
	}
	if f.access == watching {
		err := f.watch(ctx)
		f.route.Log.Debug("watch ended", "resource", f.resource.Resource, "err", err)
		if !errors.Is(err, ErrForbidden) || f.mayWatch {
			return
		}
		f.route.Log.Info("not allowed to watch, will ask again and again", "resource", f.resource.Resource)
		f.access = listing
	}
	backoff.Sleep(ctx, pollPause, nil)
}

// watch publishes changes until the server ends it or the connection breaks.
func (f *follower[T]) watch(ctx context.Context) error {
	options, seconds := f.asked.options(), int64(watchTime/time.Second)
	options.Watch, options.TimeoutSeconds, options.ResourceVersion = true, &seconds, f.watchFrom
	cluster, action := f.route.Cluster, apiAction{"watch", f.resource, "", f.route.Namespace, f.asked.name}
	stream, err := cluster.request(action).VersionedParams(&options, cluster.params).Watch(ctx)
	if err != nil {
		return cluster.requestError(ctx, err, action)
	}
	defer stream.Stop()
	f.mayWatch = true
	for event := range stream.ResultChan() {
		o, ok := event.Object.(T)
		switch {
		case event.Type == watch.Error:
			return fmt.Errorf("watch: %w", apierrors.FromObject(event.Object))
		case !ok:
			continue
		case event.Type == watch.Deleted:
			delete(f.known, o.GetName())
		default:
			f.store(o)
		}
		f.publish()
	}
	return nil
}
