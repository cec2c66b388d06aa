package kube

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"porthole.dev/porthole/internal/pinned"
)

const (
	// relayName is that of the relay's container, and the beginning of its Job's.
	relayName = "relay"
	// relayPort is where a relay listens, on the loopback of its pod, which it has to itself.
	relayPort = 41007
	// relayIdle is after how long without a client a relay ends.
	relayIdle = "60s"

	labelName, labelManaged, labelKey = "app.kubernetes.io/name", "app.kubernetes.io/managed-by", "porthole.dev/key"
	relayLabel, managedBy             = "porthole-relay", "porthole"
)

func jobResource() schema.GroupVersionResource {
	return batchv1.SchemeGroupVersion.WithResource("jobs")
}

// relayJob returns the Job of the relay of a user, whose key is known by its public half. The Job's
// name tells relays of other users, images and patches apart. Errors: *PatchError.
func (a *Agents) relayJob(key pinned.PublicKey) (*batchv1.Job, error) {
	template, err := a.relayTemplate(key)
	if err != nil {
		return nil, err
	}
	name := relayLabel + "-" + shortHash(key.String(), a.Image, a.PullPolicy, string(a.RelayPatch))
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: relayLabels(key)},
		Spec: batchv1.JobSpec{
			BackoffLimit:            new(int32(0)), // whoever still needs it makes a new one
			TTLSecondsAfterFinished: new(int32(0)),
			Template:                template,
		},
	}, nil
}

func relayLabels(key pinned.PublicKey) map[string]string {
	return map[string]string{labelName: relayLabel, labelManaged: managedBy, labelKey: keyLabel(key)}
}

// keyLabel is the label of what belongs to a user's key.
func keyLabel(key pinned.PublicKey) string { return shortHash(key.String()) }

// shortHash returns 8 hex digits that stand for some texts.
func shortHash(texts ...string) string {
	sum := sha256.New()
	for _, text := range texts {
		fmt.Fprintf(sum, "%d %s", len(text), text)
	}
	return hex.EncodeToString(sum.Sum(nil))[:8]
}

// ownTemplate is the pod of a relay before the user's patch: without rights, and as the profile `restricted` wants it
// (https://kubernetes.io/docs/concepts/security/pod-security-standards/).
func (a *Agents) ownTemplate(key pinned.PublicKey) corev1.PodTemplateSpec {
	labels := relayLabels(key)
	labels["sidecar.istio.io/inject"] = "false" // a Job does not end before its sidecars do
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: labels, Annotations: map[string]string{"linkerd.io/inject": "disabled"}},
		Spec: corev1.PodSpec{
			RestartPolicy:                 corev1.RestartPolicyNever,
			AutomountServiceAccountToken:  new(false),
			EnableServiceLinks:            new(false),
			TerminationGracePeriodSeconds: new(int64(1)), // its connections are lost in any case
			SecurityContext: &corev1.PodSecurityContext{
				RunAsNonRoot:   new(true),
				SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
			Containers: []corev1.Container{a.relayContainer(key)},
		},
	}
}

func (a *Agents) relayContainer(key pinned.PublicKey) corev1.Container {
	quantities := func(cpu, memory string) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceCPU: apiresource.MustParse(cpu), corev1.ResourceMemory: apiresource.MustParse(memory)}
	}
	return corev1.Container{
		Name:            relayName,
		Image:           a.Image,
		ImagePullPolicy: corev1.PullPolicy(a.PullPolicy),
		Args: []string{"--listen", "127.0.0.1:" + strconv.Itoa(relayPort), "--client-key", key.String(),
			"--exit-after", relayIdle, "--deny-link-local"},
		Resources:                corev1.ResourceRequirements{Requests: quantities("10m", "16Mi"), Limits: quantities("1", "256Mi")},
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError, // why it ended is in the pod's status
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: new(false),
			ReadOnlyRootFilesystem:   new(true),
			Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		},
	}
}

// isOver says whether a Job has ended, or is about to be removed: its relay is not used again.
func isOver(job *batchv1.Job) bool {
	ended := func(c batchv1.JobCondition) bool {
		switch c.Type {
		case batchv1.JobComplete, batchv1.JobFailed, batchv1.JobSuccessCriteriaMet, batchv1.JobFailureTarget:
			return c.Status == corev1.ConditionTrue
		}
		return false
	}
	return job.DeletionTimestamp != nil || slices.ContainsFunc(job.Status.Conditions, ended)
}

// demandsKey says whether a Job's relay demands the user's key.
func demandsKey(job *batchv1.Job, key pinned.PublicKey) bool {
	return slices.ContainsFunc(job.Spec.Template.Spec.Containers, func(c corev1.Container) bool {
		return c.Name == relayName && slices.Contains(c.Args, key.String())
	})
}
