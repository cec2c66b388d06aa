package kube

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
)

// Expand is a route.Expander: each pod of the target is a member, by its name, and has a Route
// of its own. What all of these know of the pods comes from one Route, which opens no tunnels.
// Errors: those of Open, and *ResourceError with ErrOnePod.
func (o *Opener) Expand(ctx context.Context, f target.Forward, events func(route.Event), tell func([]route.Member)) error {
	cluster, err := o.cluster(f.Context, f.Namespace)
	if err != nil {
		return err
	}
	whole := o.route(cluster, f, events)
	whole.each = true
	defer whole.Close()
	if err := whole.find(ctx); err != nil {
		return err
	}
	if whole.object.isPod() {
		return &route.FinalError{Err: &ResourceError{Resource: whole.Target.String(), Kind: ErrOnePod}}
	}
	if err := whole.awaitPod(ctx); err != nil {
		return err
	}
	pods, err := whole.newPlaces(ctx)
	if err != nil {
		return err
	}
	open := func(pod string) route.Opener {
		return func(ctx context.Context, f target.Forward, events func(route.Event)) (*route.Result, error) {
			r := o.route(cluster, f, events)
			r.whole, r.pod = whole, pod
			return open(ctx, r, f)
		}
	}
	return whole.followPlaces(ctx, pods, func(all []place) {
		members := make([]route.Member, len(all))
		for i, p := range all {
			members[i] = route.Member{Name: p.pod, Place: p.number, Open: open(p.pod)}
		}
		tell(members)
	})
}

// absentPause is between two looks at a StatefulSet one of whose pods is missing: its pods
// do not tell whether that one will be made again.
const absentPause = time.Second

// place is the number that a pod has among those of a target, from 0.
type place struct {
	pod    string
	number int
}

// places gives the pods of a target their places: that of its ordinal to a pod of a
// StatefulSet, and the lowest free one to any other.
type places struct {
	taken []place        // by number
	last  map[int]string // the pod that had a place last
	set   *statefulSet   // nil for other targets
}

// statefulSet says which pods one is to have: those with ordinals from start to below end.
type statefulSet struct {
	name       string
	origin     int // the ordinal of the first place
	start, end int
}

// newPlaces has no pod yet.
func (r *Route) newPlaces(ctx context.Context) (p *places, err error) {
	p = &places{last: map[int]string{}}
	if r.object.isStatefulSet() {
		p.set = &statefulSet{name: r.Target.Name}
		err = r.readOrdinals(ctx, p.set)
		p.set.origin = p.set.start
	}
	return p, err
}

// readOrdinals reads which pods a StatefulSet is to have; none if it was deleted.
func (r *Route) readOrdinals(ctx context.Context, s *statefulSet) error {
	ctx, cancel := r.Cluster.background(ctx)
	defer cancel()
	var w workload
	err := r.Cluster.get(ctx, r.object.resource.GroupVersionResource, r.Namespace, r.Target.Name, &w)
	switch {
	case apierrors.IsNotFound(err):
		s.start, s.end = 0, 0
		return nil
	case err != nil:
		return err
	}
	s.start = int(w.Spec.Ordinals.Start)
	s.end = s.start + int(valueOr(w.Spec.Replicas, 1))
	return nil
}

// followPlaces tells of the pods that are ready, and then of all whenever they change, until
// ctx ends.
func (r *Route) followPlaces(ctx context.Context, p *places, tell func([]place)) error {
	all, _, _ := r.pods.current()
	p.update(slices.DeleteFunc(slices.Clone(all), func(e endpoint) bool { return !e.ready }))
	tell(p.taken)
	for look := time.Now(); ; {
		all, changed, _ := r.pods.current()
		if p.awaits(all) && !time.Now().Before(look) {
			if err := r.readOrdinals(ctx, p.set); err != nil {
				r.Log.Debug("look at the StatefulSet again", "err", err)
			}
			look = time.Now().Add(absentPause)
		}
		before := slices.Clone(p.taken)
		if p.update(all); !slices.Equal(before, p.taken) {
			tell(p.taken)
		}
		var again <-chan time.Time
		if p.awaits(all) {
			again = time.After(time.Until(look))
		}
		select {
		case <-changed:
		case <-again:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// isThere reports whether a place's pod exists, and stays.
func (p place) isThere(all []endpoint) bool {
	return slices.ContainsFunc(all, func(e endpoint) bool { return e.pod == p.pod && !e.terminating })
}

// awaits reports whether a pod of a StatefulSet is missing.
func (p *places) awaits(all []endpoint) bool {
	return p.set != nil && slices.ContainsFunc(p.taken, func(one place) bool { return !one.isThere(all) })
}

// update takes the places of pods that have gone, and gives one to each new pod. A pod of a
// StatefulSet that is to be made again keeps its place.
func (p *places) update(all []endpoint) {
	p.taken = slices.DeleteFunc(p.taken, func(one place) bool {
		return !one.isThere(all) && (p.set == nil || !p.set.wants(one.number+p.set.origin))
	})
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b endpoint) int { // db-10 comes after db-9
		return cmp.Or(cmp.Compare(len(a.pod), len(b.pod)), cmp.Compare(a.pod, b.pod))
	})
	for _, e := range all {
		had := slices.ContainsFunc(p.taken, func(one place) bool { return one.pod == e.pod })
		if had || e.terminating || p.set == nil && !e.ready {
			continue
		}
		if number, ok := p.numberFor(e.pod); ok {
			p.taken, p.last[number] = append(p.taken, place{e.pod, number}), e.pod
		}
	}
	slices.SortFunc(p.taken, func(a, b place) int { return cmp.Compare(a.number, b.number) })
}

// numberFor returns the place for a new pod: that of its ordinal, or else the one that a pod
// of its name had, if that is free, or the lowest that is free.
func (p *places) numberFor(pod string) (number int, ok bool) {
	if p.set != nil {
		ordinal, ok := p.set.ordinal(pod)
		return ordinal - p.set.origin, ok && ordinal >= p.set.origin
	}
	free := func(n int) bool {
		return !slices.ContainsFunc(p.taken, func(one place) bool { return one.number == n })
	}
	for n, name := range p.last {
		if name == pod && free(n) {
			return n, true
		}
	}
	for !free(number) {
		number++
	}
	return number, true
}

func (s *statefulSet) wants(ordinal int) bool { return s.start <= ordinal && ordinal < s.end }

// ordinal is the number in a pod's name; false for a pod of another owner.
func (s *statefulSet) ordinal(pod string) (int, bool) {
	number, ok := strings.CutPrefix(pod, s.name+"-")
	n, err := strconv.ParseUint(number, 10, 31)
	return int(n), ok && err == nil
}

// join is find for a Route to one pod of another Route's target: what that one knows of the
// pod is known here.
func (r *Route) join() error {
	r.object = r.whole.object
	r.balancer = newBalancer(sticky, 0)
	if err := r.want(r.Want); err != nil {
		return err
	}
	changed := r.copyPod()
	r.work.Go(func() {
		for {
			select {
			case <-changed:
				changed = r.copyPod()
			case <-r.life.Done():
				return
			}
		}
	})
	return nil
}

// copyPod copies what the Route to the whole target knows, and returns a channel that is closed
// when that changes.
func (r *Route) copyPod() <-chan struct{} {
	all, changed, err := r.whole.pods.current()
	r.learnNames(r.object.service.Load())
	r.pods.set(slices.DeleteFunc(slices.Clone(all), func(e endpoint) bool { return e.pod != r.pod }))
	if err != nil {
		r.pods.fail(err)
	}
	return changed
}
