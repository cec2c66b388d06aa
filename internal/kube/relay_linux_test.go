package kube_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"porthole.dev/porthole/internal/kube"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

// relayAttempt is an attempt to reach a host by a relay, in a cluster without controllers.
type relayAttempt struct {
	cancel context.CancelFunc
	done   chan error
}

// startRelay makes an attempt as a user whose key is in a folder.
func (n *namespace) startRelay(t *testing.T, user, folder string) relayAttempt {
	t.Helper()
	o := &kube.Opener{
		Config: &kube.Config{Kubeconfig: n.kubeconfig(t, user, n.name)}, PodRunningTimeout: testenv.Patience,
		Agents: &kube.Agents{Image: "porthole.dev/porthole:test", KeyFile: filepath.Join(folder, "agent.key")},
	}
	ctx, cancel := context.WithCancel(t.Context())
	a := relayAttempt{cancel: cancel, done: make(chan error, 1)}
	go func() {
		f := target.Forward{Target: target.Target{Scheme: target.RemoteHost, Name: "db"}}
		opened, err := o.Open(ctx, f, func(route.Event) {})
		if err == nil {
			opened.Close()
		}
		o.Close()
		a.done <- err
	}()
	t.Cleanup(cancel)
	return a
}

// end waits for the attempt's error.
func (a relayAttempt) end(t *testing.T) error {
	t.Helper()
	select {
	case err := <-a.done:
		if err == nil {
			t.Fatal("it has succeeded without a pod")
		}
		return err
	case <-time.After(testenv.Patience):
		t.Fatal("it goes on")
		return nil
	}
}

func (n *namespace) jobs() []batchv1.Job {
	n.t.Helper()
	var list batchv1.JobList
	if err := json.Unmarshal(n.must(n.t, http.MethodGet, n.path("jobs"), nil), &list); err != nil {
		n.t.Fatal(err)
	}
	return list.Items
}

// awaitJob waits until there is one Job, other than one that was there before.
func (n *namespace) awaitJob(before string) batchv1.Job {
	n.t.Helper()
	var all []batchv1.Job
	testenv.Await(n.t, "a relay is started", func() bool {
		all = n.jobs()
		return len(all) == 1 && string(all[0].UID) != before
	})
	return all[0]
}

// relayPod makes the pod of a Job, as its controller would.
func (n *namespace) relayPod(job batchv1.Job, name string) {
	n.t.Helper()
	template := job.Spec.Template
	labels := map[string]string{"job-name": job.Name}
	for key, value := range template.Labels {
		labels[key] = value
	}
	template.Spec.NodeName = nodeName
	n.create("pods", object{"metadata": object{"name": name, "labels": labels, "ownerReferences": []object{{
		"apiVersion": "batch/v1", "kind": "Job", "name": job.Name, "uid": job.UID, "controller": true}}}, "spec": template.Spec})
}

// A relay has no rights, and what the profile `restricted` demands.
func TestRelayJob(t *testing.T) {
	n := newNamespace(t)
	testenv.NoLeaks(t)
	a := n.startRelay(t, "admin", t.TempDir())
	job := n.awaitJob("")
	a.cancel()
	a.end(t)
	spec, template := job.Spec, job.Spec.Template.Spec
	if *spec.TTLSecondsAfterFinished != 0 || *spec.BackoffLimit != 0 {
		t.Errorf("the Job stays, or tries again: %+v", spec)
	}
	if *template.AutomountServiceAccountToken || *template.EnableServiceLinks || template.RestartPolicy != corev1.RestartPolicyNever {
		t.Errorf("the pod: %+v", template)
	}
	if got := strings.Join(template.Containers[0].Args, " "); !strings.HasPrefix(got, "--listen 127.0.0.1:41007 --client-key ") ||
		!strings.HasSuffix(got, " --exit-after 60s --deny-link-local") {
		t.Errorf("arguments %s", got)
	}
	if left := n.jobs(); len(left) > 0 {
		t.Errorf("interrupted, it has left %v", left[0].Name)
	}
}

// Two that start at once end with one relay, and an interrupted one leaves the other's alone.
func TestRelayIsShared(t *testing.T) {
	n := newNamespace(t)
	testenv.NoLeaks(t)
	folder := t.TempDir()
	first := n.startRelay(t, "admin", folder)
	job := n.awaitJob("")
	second := n.startRelay(t, "admin", folder)
	n.relayPod(job, "relay")
	other := n.startRelay(t, "admin", t.TempDir()) // of another user
	testenv.Await(t, "another user's relay is started", func() bool { return len(n.jobs()) == 2 })
	second.cancel()
	second.end(t)
	if left := n.jobs(); len(left) != 2 {
		t.Errorf("%d relays for two users", len(left))
	}
	for _, a := range []relayAttempt{first, other} {
		a.cancel()
		a.end(t)
	}
	if left := n.jobs(); len(left) > 0 {
		t.Errorf("left: %d", len(left))
	}
}

// What keeps a relay from starting for good is said at once, and nothing stays behind.
func TestRelayCannotStart(t *testing.T) {
	waits := func(reason, message string) object {
		return object{"phase": "Pending", "containerStatuses": []object{{"name": "relay", "ready": false, "image": "x", "imageID": "", "restartCount": 0,
			"state": object{"waiting": object{"reason": reason, "message": message}}}}}
	}
	ended := object{"phase": "Failed", "containerStatuses": []object{{"name": "relay", "ready": false, "image": "x", "imageID": "", "restartCount": 0,
		"state": object{"terminated": object{"exitCode": 2, "reason": "Error", "message": "unknown flag: --listen"}}}}}
	for name, test := range map[string]struct {
		status object // of its pod; nil for none
		want   string
	}{
		"image":  {waits("ImagePullBackOff", "no such host"), "pod relay is Pending, container relay: ImagePullBackOff: no such host"},
		"config": {waits("CreateContainerConfigError", "image will run as root"), "image will run as root"},
		"exits":  {ended, "exit code 2 unknown flag: --listen"},
		"quota":  {nil, "gets no pod: FailedCreate: exceeded quota"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNamespace(t)
			testenv.NoLeaks(t)
			a := n.startRelay(t, "admin", t.TempDir())
			job := n.awaitJob("")
			if test.status == nil {
				n.create("events", object{"metadata": object{"name": "a"}, "type": "Warning", "reason": "FailedCreate", "message": "exceeded quota",
					"involvedObject": object{"kind": "Job", "namespace": n.name, "name": job.Name, "uid": job.UID}})
			} else {
				n.relayPod(job, "relay")
				n.setStatus("relay", test.status)
			}
			err := a.end(t)
			var e *kube.RelayError
			if !errors.As(err, &e) || !errors.Is(err, kube.ErrNotReady) || !strings.Contains(err.Error(), test.want) || e.Left != nil {
				t.Errorf("%v, want %q", err, test.want)
			}
			if left := n.jobs(); len(left) > 0 {
				t.Errorf("left: %s", left[0].Name)
			}
		})
	}
}

// A user who may not delete Jobs learns that one is left.
func TestRelayStays(t *testing.T) {
	n := newNamespace(t)
	testenv.NoLeaks(t)
	n.grant("poduser", "get,create jobs.batch", "list pods")
	a := n.startRelay(t, "poduser", t.TempDir())
	n.relayPod(n.awaitJob(""), "relay")
	n.setStatus("relay", object{"phase": "Pending", "containerStatuses": []object{{"name": "relay", "ready": false, "image": "x", "imageID": "", "restartCount": 0,
		"state": object{"waiting": object{"reason": "ErrImagePull", "message": "no such host"}}}}})
	err := a.end(t)
	var e *kube.RelayError
	if !errors.As(err, &e) || !errors.Is(e.Left, kube.ErrForbidden) || !strings.Contains(err.Error(), "its Job is left: user \"poduser\" may not delete jobs.batch") {
		t.Errorf("%v", err)
	}
	if len(n.jobs()) != 1 {
		t.Error("the Job is gone")
	}
}

// A relay that is ending is waited for, and another one takes its place.
func TestRelayIsReplaced(t *testing.T) {
	n := newNamespace(t)
	testenv.NoLeaks(t)
	folder := t.TempDir()
	first := n.startRelay(t, "admin", folder)
	old := n.awaitJob("")
	n.must(t, http.MethodPatch, n.path("jobs/"+old.Name), object{"metadata": object{"finalizers": []string{"test.example.com/wait"}}})
	n.must(t, http.MethodDelete, n.path("jobs/"+old.Name), object{"propagationPolicy": "Background"})
	first.cancel()
	first.end(t)
	second := n.startRelay(t, "admin", folder)
	select {
	case err := <-second.done:
		t.Fatalf("it does not wait for the old one's end: %v", err)
	case <-time.After(2 * time.Second):
	}
	n.must(t, http.MethodPatch, n.path("jobs/"+old.Name), object{"metadata": object{"finalizers": nil}})
	if now := n.awaitJob(string(old.UID)); now.Name != old.Name {
		t.Errorf("the new one is called %s, and was %s", now.Name, old.Name)
	}
	second.cancel()
	second.end(t)
}

// A Job of the relay's name that somebody else has made is not taken for it.
func TestRelayOfStranger(t *testing.T) {
	n := newNamespace(t)
	testenv.NoLeaks(t)
	folder := t.TempDir()
	first := n.startRelay(t, "admin", folder)
	mine := n.awaitJob("")
	first.cancel()
	first.end(t)
	n.create("jobs", object{"metadata": object{"name": mine.Name}, "spec": object{"template": object{"spec": object{
		"restartPolicy": "Never", "containers": []object{{"name": "relay", "image": "evil", "args": []string{"--client-key", "other"}}}}}}})
	if err := n.startRelay(t, "admin", folder).end(t); !errors.Is(err, kube.ErrNoRelay) {
		t.Errorf("%v", err)
	}
	if len(n.jobs()) != 1 {
		t.Error("the stranger's Job is gone")
	}
}

// Who may not start relays, and where none can be, learns it.
func TestRelayIsRefused(t *testing.T) {
	n := newNamespace(t)
	testenv.NoLeaks(t)
	for user, test := range map[string]struct {
		rights []string
		want   string
	}{
		"nobody":  {nil, "get jobs.batch"},
		"poduser": {[]string{"get jobs.batch"}, "create jobs.batch"},
		"svcuser": {[]string{"get,create jobs.batch"}, "list pods"},
	} {
		n.grant(user, test.rights...)
		err := n.startRelay(t, user, t.TempDir()).end(t)
		var e *kube.ForbiddenError
		if !errors.As(err, &e) || e.Verb+" "+e.Resource != test.want {
			t.Errorf("with %v: %v, want %s", test.rights, err, test.want)
		}
	}
	missing := *n
	missing.name = "missing"
	if err := missing.startRelay(t, "admin", t.TempDir()).end(t); !errors.Is(err, kube.ErrNoNamespace) {
		t.Errorf("without a namespace: %v", err)
	}
	n.create("configmaps", object{"metadata": object{"name": "keeps", "finalizers": []string{"test.example.com/wait"}}})
	n.must(t, http.MethodDelete, "/api/v1/namespaces/"+n.name, nil)
	if err := n.startRelay(t, "admin", t.TempDir()).end(t); !errors.Is(err, kube.ErrNamespaceEnds) {
		t.Errorf("in a namespace that is being deleted: %v", err)
	}
}
