package kube

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"porthole.dev/porthole/internal/backoff"
	"porthole.dev/porthole/internal/pinned"
)

const (
	// podPollPause is between two looks at a pod that the user may not watch.
	podPollPause = 200 * time.Millisecond
	// eventPause is between two looks at the events of a container that starts.
	eventPause = time.Second
	// keyTime is how long an agent that runs may take to print its key, which is the first it does.
	keyTime = 10 * time.Second
	// maxKeyLine is how much of an agent's log is read.
	maxKeyLine = 1 << 10
)

// addEphemeral adds an ephemeral container to a pod.
func (c *Cluster) addEphemeral(ctx context.Context, pod *corev1.Pod, container *corev1.EphemeralContainer) error {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID}, // not one that took its name meanwhile
		"spec":     map[string]any{"ephemeralContainers": []*corev1.EphemeralContainer{container}},
	})
	if err != nil {
		return err
	}
	ctx, cancel := c.background(ctx)
	defer cancel()
	a := apiAction{"patch", podResource(), "ephemeralcontainers", pod.Namespace, pod.Name}
	err = c.request(a).SetHeader("Content-Type", string(types.StrategicMergePatchType)).Body(patch).Do(ctx).Error()
	return c.admissionError(ctx, err, a)
}

// may says whether the user has the right to an action. It is false if the server does not tell.
func (c *Cluster) may(ctx context.Context, a apiAction) bool {
	review, err := json.Marshal(map[string]any{
		"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
		"spec": map[string]any{"resourceAttributes": map[string]string{
			"verb": a.verb, "group": a.resource.Group, "resource": a.resource.Resource, "subresource": a.subresource,
			"namespace": a.namespace, "name": a.name,
		}},
	})
	if err != nil {
		return false
	}
	var answer struct{ Status struct{ Allowed bool } }
	data, err := c.api.Verb(http.MethodPost).AbsPath("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews").
		SetHeader("Accept", runtime.ContentTypeJSON).SetHeader("Content-Type", runtime.ContentTypeJSON).Body(review).Do(ctx).Raw()
	return err == nil && json.Unmarshal(data, &answer) == nil && answer.Status.Allowed
}

// apiText is an error of the API server in its own words alone.
func apiText(err error) error {
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return errors.New(status.Status().Message)
	}
	return err
}

// awaitPod calls done for each state of a pod, from the given one on, until it returns true or
// an error. Errors: those of done, and what get returns.
func (c *Cluster) awaitPod(ctx context.Context, pod *corev1.Pod, done func(*corev1.Pod) (bool, error)) error {
	if over, err := done(pod); over || err != nil {
		return err
	}
	if over, err := c.watchPod(ctx, pod, done); over {
		return err
	}
	for {
		var now corev1.Pod
		err := c.get(ctx, podResource(), pod.Namespace, pod.Name, &now)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			return err
		case now.UID != pod.UID:
			return apierrors.NewNotFound(podResource().GroupResource(), pod.Name)
		}
		if over, err := done(&now); over || err != nil {
			return err
		}
		backoff.Sleep(ctx, podPollPause, nil)
	}
}

// watchPod is awaitPod for a user who may watch pods; over is false for others, and when the
// watch ends early.
func (c *Cluster) watchPod(ctx context.Context, pod *corev1.Pod, done func(*corev1.Pod) (bool, error)) (over bool, err error) {
	options := query{name: pod.Name}.options()
	options.Watch, options.ResourceVersion = true, pod.ResourceVersion
	a := apiAction{"watch", podResource(), "", pod.Namespace, pod.Name}
	stream, err := c.request(a).VersionedParams(&options, c.params).Watch(ctx)
	if err != nil {
		return false, nil //nolint:nilerr // reading it again and again tells the same, or why not
	}
	defer stream.Stop()
	for event := range stream.ResultChan() {
		now, ok := event.Object.(*corev1.Pod)
		switch {
		case !ok:
			return false, nil
		case event.Type == watch.Deleted || now.UID != pod.UID:
			return true, apierrors.NewNotFound(podResource().GroupResource(), pod.Name)
		}
		if over, err := done(now); over || err != nil {
			return true, err
		}
	}
	return false, nil
}

// What keeps an agent from being reached.
var (
	errPortTaken = errors.New("its port is taken")
	errAgentSlow = errors.New("it has not started in time")
	errSilent    = errors.New("it does not answer")
)

// agentRuns returns nil for the container of an agent that runs, or else why it does not; final
// is set if that will not pass by itself.
func agentRuns(pod *corev1.Pod, name string) (why, final error) {
	fail := func(what ...string) error {
		text := strings.Join(what, ": ")
		return &AgentError{Pod: pod.Name, Container: name, Err: fmt.Errorf("%w: %s", ErrNotStarted, strings.TrimSuffix(strings.TrimSpace(text), ":"))}
	}
	switch state := statusOf(pod, name).State; {
	case state.Running != nil:
		return nil, nil
	case state.Terminated != nil:
		message := strings.TrimSpace(state.Terminated.Message)
		// The agent's own line, with the system's text in it.
		if strings.Contains(message, syscall.EADDRINUSE.Error()) {
			return errPortTaken, errPortTaken
		}
		why = fail(fmt.Sprintf("exit code %d", state.Terminated.ExitCode), state.Terminated.Reason, message)
		return why, why
	case state.Waiting != nil && state.Waiting.Reason != "":
		why = fail(state.Waiting.Reason, state.Waiting.Message)
		if cannotStart(state.Waiting.Reason) {
			return why, why
		}
		return why, nil
	}
	return fail("nothing is known of it yet"), nil
}

// awaitFailure returns when there is an event that a container could not be started, with what it
// says. The kubelet writes that at once, but into the pod's status only ten seconds later. It
// returns nil when ctx ends, or if the user may not read events.
func (c *Cluster) awaitFailure(ctx context.Context, pod *corev1.Pod, container string) error {
	of := fields.Set{"uid": string(pod.UID), "fieldPath": "spec.ephemeralContainers{" + container + "}"}
	for {
		backoff.Sleep(ctx, eventPause, nil)
		events, err := c.warnings(ctx, pod.Namespace, of)
		if err != nil {
			return nil //nolint:nilerr // the pod's status tells it later
		}
		text := ""
		for _, e := range events {
			if len(e.Message) > len(text) { // "Error: ErrImagePull" follows what has failed
				text = e.Message
			}
		}
		if text != "" {
			return &AgentError{Pod: pod.Name, Container: container, Err: fmt.Errorf("%w: %s", ErrNotStarted, text)}
		}
	}
}

// agentKey reads the key of an agent from its log.
func (c *Cluster) agentKey(ctx context.Context, namespace, pod, container string) (pinned.PublicKey, error) {
	ctx, cancel := context.WithTimeout(ctx, keyTime)
	defer cancel()
	a := apiAction{"get", podResource(), "log", namespace, pod}
	limit := int64(maxKeyLine)
	options := corev1.PodLogOptions{Container: container, Follow: true, LimitBytes: &limit}
	log, err := c.request(a).VersionedParams(&options, c.params).Stream(ctx)
	if err != nil {
		return pinned.PublicKey{}, c.requestError(ctx, err, a)
	}
	defer log.Close()
	line, err := bufio.NewReader(io.LimitReader(log, maxKeyLine)).ReadString('\n')
	if err != nil {
		return pinned.PublicKey{}, fmt.Errorf("its log has no line of an agent: %w", err)
	}
	return readKeyLine(line)
}

// readKeyLine reads the line that an agent prints first: porthole agent key=KEY version=VERSION.
func readKeyLine(line string) (pinned.PublicKey, error) {
	fields := strings.Fields(line)
	if len(fields) < 3 || fields[0] != "porthole" || fields[1] != "agent" {
		return pinned.PublicKey{}, fmt.Errorf("its log begins with %.100q, and not as that of an agent", strings.TrimSpace(line))
	}
	text, _ := strings.CutPrefix(fields[2], "key=")
	return pinned.ParsePublicKey(text)
}
