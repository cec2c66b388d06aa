package kube

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"porthole.dev/porthole/internal/pinned"
)

// RelayJob is a relay that is there, of any user.
type RelayJob struct {
	Namespace, Name string
	Mine            bool
	Created         time.Time

	uid types.UID
}

// HasPod says whether a pod of that name can be the relay's.
func (j RelayJob) HasPod(name string) bool { return strings.HasPrefix(name, j.Name+"-") }

// AgentContainer is an ephemeral container with an agent. It cannot be removed.
type AgentContainer struct {
	Namespace, Pod, Name string
	Mine                 bool
	State                string // running, waiting or terminated
}

// PublicKey returns the public half of the user's key, zero if there is no key yet.
func (a *Agents) PublicKey() (pinned.PublicKey, error) {
	if _, err := os.Stat(a.KeyFile); a.KeyFile == "" || errors.Is(err, fs.ErrNotExist) {
		return pinned.PublicKey{}, nil
	}
	key, err := a.key()
	if err != nil {
		return pinned.PublicKey{}, err
	}
	return key.Public(), nil
}

// Relays returns the relays of a namespace, or with "" of all.
func (c *Cluster) Relays(ctx context.Context, namespace string, mine pinned.PublicKey) (all []RelayJob, err error) {
	var list batchv1.JobList
	options := metav1.ListOptions{LabelSelector: labelName + "=" + relayLabel + "," + labelManaged + "=" + managedBy}
	if err := c.list(ctx, jobResource(), namespace, options, &list); err != nil {
		return nil, err
	}
	for i := range list.Items {
		job := &list.Items[i]
		all = append(all, RelayJob{Namespace: job.Namespace, Name: job.Name, Created: job.CreationTimestamp.Time, uid: job.UID,
			Mine: job.Labels[labelKey] == keyLabel(mine) && demandsKey(job, mine)})
	}
	return all, nil
}

// RemoveRelay removes a relay with its pod. That it has gone by itself is no error.
func (c *Cluster) RemoveRelay(ctx context.Context, j RelayJob) error {
	return c.deleteJob(ctx, j.Namespace, j.Name, j.uid)
}

// AgentContainers returns the agents in the pods of a namespace, or with "" of all.
func (c *Cluster) AgentContainers(ctx context.Context, namespace string, mine pinned.PublicKey) (all []AgentContainer, err error) {
	var list corev1.PodList
	if err := c.list(ctx, podResource(), namespace, metav1.ListOptions{}, &list); err != nil {
		return nil, err
	}
	for i := range list.Items {
		pod := &list.Items[i]
		for _, e := range pod.Spec.EphemeralContainers {
			if args, ok := readAgentArgs(e.Args); ok && strings.HasPrefix(e.Name, agentPrefix) {
				all = append(all, AgentContainer{Namespace: pod.Namespace, Pod: pod.Name, Name: e.Name,
					Mine: args.key == mine.String(), State: stateOf(statusOf(pod, e.Name))})
			}
		}
	}
	return all, nil
}

// stateOf is a container's state in a word, or with the reason.
func stateOf(s corev1.ContainerStatus) string {
	switch {
	case s.State.Running != nil:
		return "running"
	case s.State.Terminated != nil:
		return "ended"
	case s.State.Waiting != nil:
		return cmp.Or(s.State.Waiting.Reason, "waiting")
	}
	return "waiting"
}
