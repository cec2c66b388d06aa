package kube_test

import (
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"porthole.dev/porthole/internal/kube"
	"porthole.dev/porthole/internal/portforward"
	"porthole.dev/porthole/internal/testenv"
	"porthole.dev/porthole/internal/tunnel"
)

// calm is after how long failures are steady.
const calm = 2 * time.Second

// However many connections wait for a pod, two requests a second are made for it; when it
// can be reached again, all get through.
func TestRetriesArePerPod(t *testing.T) {
	n := newNamespace(t)
	n.newReady("kuard")
	f := newFront(t, n)
	j, story := f.opened(t, f.cluster(t, n), "pod", "kuard"), "ready kuard"
	for _, waiting := range []int{20, 200} {
		t.Run(fmt.Sprint(waiting), func(t *testing.T) {
			f.refuse("kuard", status(http.StatusInternalServerError))
			story += ", reconnecting"
			j.eventuallyStory(story) // no connection meets the tunnel that was cut
			came := make(chan error, waiting)
			for range waiting {
				go func() {
					at, err := j.reach(80)
					if err == nil && at != "kuard:80" {
						err = fmt.Errorf("came to %s", at)
					}
					came <- err
				}()
			}
			wantSteady(t, f, 2)
			f.refuse("kuard", nil)
			for range waiting {
				if err := <-came; err != nil {
					t.Error(err)
				}
			}
			story += ", ready kuard"
			j.eventuallyStory(story)
		})
	}
}

// wantSteady wants some requests for tunnels, but no more than so many a second.
func wantSteady(t *testing.T, f *front, perSecond float64) {
	t.Helper()
	time.Sleep(calm)
	began := time.Now()
	time.Sleep(5 * time.Second)
	made := len(f.since(began, forTunnel))
	took := time.Since(began)
	t.Logf("%d requests in %v", made, took)
	if made == 0 || float64(made) > perSecond*took.Seconds()+1 {
		t.Errorf("%d requests in %v, want some and at most %v a second", made, took, perSecond)
	}
}

// Many pods that fail share ten a second.
func TestRetriesArePerProcess(t *testing.T) {
	n := newNamespace(t)
	f := newFront(t, n)
	c := f.cluster(t, n)
	const pods = 20
	var all []*journey
	for i := range pods {
		name := fmt.Sprintf("pod-%d", i)
		n.newReady(name)
		all = append(all, f.opened(t, c, "pod", name))
	}
	for i := range pods {
		f.refuse(fmt.Sprintf("pod-%d", i), status(http.StatusBadGateway))
	}
	for i, j := range all {
		j.awaitStory(fmt.Sprintf("ready pod-%d, reconnecting", i))
	}
	wantSteady(t, f, 10)
	for i := range pods {
		f.refuse(fmt.Sprintf("pod-%d", i), nil)
	}
	for i, j := range all {
		j.want(80, fmt.Sprintf("pod-%d:80", i))
	}
}

// A server says when to ask again.
func TestRetryAfter(t *testing.T) {
	n := newNamespace(t)
	n.newReady("kuard")
	f := newFront(t, n)
	c := f.cluster(t, n)
	j, story := f.opened(t, c, "pod", "kuard"), "ready kuard"
	for _, code := range []int{http.StatusTooManyRequests, http.StatusServiceUnavailable} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			after := "3"
			if code == http.StatusServiceUnavailable {
				after = time.Now().Add(4 * time.Second).UTC().Format(http.TimeFormat)
			}
			f.refuse("kuard", status(code, "Retry-After", after))
			began := time.Now() // all from now on are refused
			came := make(chan error, 20)
			for range cap(came) {
				go func() { _, err := j.reach(80); came <- err }()
			}
			var made []asked
			for len(made) < 2 {
				time.Sleep(50 * time.Millisecond)
				made = f.since(began, forTunnel)
			}
			until := made[0].at.Add(3 * time.Second)
			if at, err := http.ParseTime(after); err == nil {
				until = at
			}
			if again := made[1].at; again.Before(until) {
				t.Errorf("the next request came %v too early", until.Sub(again))
			}
			story += ", reconnecting"
			j.eventuallyStory(story) // no attempt that was refused in part ends well
			f.refuse("kuard", nil)
			for range cap(came) {
				if err := <-came; err != nil && !errors.Is(err, tunnel.ErrTunnel) { // that was cut under it
					t.Error(err)
				}
			}
			j.want(80, "kuard:80")
			story += ", ready kuard"
			j.eventuallyStory(story)
		})
	}

	// Who ends the wait meanwhile is told why there was one.
	f.refuse("kuard", status(http.StatusTooManyRequests, "Retry-After", "3600"))
	j.eventuallyStory(story + ", reconnecting")
	j.MaxWait = time.Second
	_, err := j.reach(80)
	var waited *kube.WaitError
	var refused *portforward.StatusError
	if !errors.As(err, &waited) || !errors.As(err, &refused) || refused.Code != http.StatusTooManyRequests {
		t.Errorf("Dial = %v, want a WaitError that tells of 429", err)
	}
}

// A pod that cannot be reached, by a refusal or by silence, leaves the connections alone
// that all routes of the cluster share: nobody's watch ends, and nothing is listed again.
func TestFailureIsTheRoutesOwn(t *testing.T) {
	n := newNamespace(t)
	testenv.NoLeaks(t)
	n.newWorkload("deployments", "web", 1)
	n.newReady("web-1")
	n.create("pods", object{"metadata": object{"name": "bad"}, "spec": podSpec(8080)}) // none of the workload's
	n.setReady("bad", true)
	f := newFront(t, n)
	c := f.cluster(t, n)
	healthy, failing := f.opened(t, c, "deploy", "web"), f.opened(t, c, "pod", "bad")
	healthy.want(80, "web-1:80")
	watches := func(a asked) bool { return a.url.Query().Get("watch") != "" }
	for end := time.Now().Add(testenv.Patience); len(f.since(time.Time{}, watches)) < 2; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("nothing is watched")
		}
	}

	began, story := time.Now(), "ready bad"
	released := make(chan struct{})
	defer close(released)
	silent := func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-released:
		}
	}
	for i := range 5 {
		f.refuse("bad", status(http.StatusInternalServerError))
		if i == 4 {
			f.refuse("bad", silent)
		}
		story += ", reconnecting"
		failing.eventuallyStory(story)
		f.refuse("bad", nil)
		failing.want(80, "bad:80")
		story += ", ready bad"
		failing.eventuallyStory(story)
	}
	lists := f.since(began, func(a asked) bool { return a.pod == "" && a.url.Path == n.path("pods") })
	if len(lists) > 0 {
		t.Errorf("%d lists and watches after failures of one pod: %v", len(lists), lists[0].url)
	}
	healthy.want(80, "web-1:80")
	healthy.awaitStory("ready web-1")
}

// eventuallyStory is awaitStory for what takes time-outs.
func (j *journey) eventuallyStory(want string) {
	j.t.Helper()
	for end := time.Now().Add(time.Minute); j.story() != want; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			j.t.Fatalf("told %q, want %q", j.story(), want)
		}
	}
}
