package kube

import (
	"errors"
	"reflect"

	corev1 "k8s.io/api/core/v1"

	"porthole.dev/porthole/internal/pinned"
)

// relayTemplate is the pod of a relay, with the user's patch. Errors: *PatchError.
func (a *Agents) relayTemplate(key pinned.PublicKey) (corev1.PodTemplateSpec, error) {
	template := a.ownTemplate(key)
	patched, err := mergePatch(RelayPatch, template, a.RelayPatch)
	if field := changedField(template, patched); err == nil && field != "" {
		err = &PatchError{Of: RelayPatch, Err: errors.New("it may not change " + field)}
	}
	return patched, err
}

// changedField names what a patch has changed and may not: what makes the pod a relay, and what
// would give it more than a pod of its own.
func changedField(old, now corev1.PodTemplateSpec) string {
	if len(now.Spec.Containers) != 1 || now.Spec.Containers[0].Name != relayName {
		return "spec.containers, which has one named " + relayName
	}
	was, is := old.Spec.Containers[0], now.Spec.Containers[0]
	for _, field := range []struct {
		name     string
		old, now any
	}{
		{"the container's command", was.Command, is.Command},
		{"the container's args", was.Args, is.Args},
		{"the container's image", was.Image, is.Image},
		{"spec.hostNetwork", old.Spec.HostNetwork, now.Spec.HostNetwork},
		{"spec.hostPID", old.Spec.HostPID, now.Spec.HostPID},
		{"spec.hostIPC", old.Spec.HostIPC, now.Spec.HostIPC},
		{"spec.restartPolicy", old.Spec.RestartPolicy, now.Spec.RestartPolicy},
		{"spec.automountServiceAccountToken", old.Spec.AutomountServiceAccountToken, now.Spec.AutomountServiceAccountToken},
		{"spec.initContainers", old.Spec.InitContainers, now.Spec.InitContainers},
		{"the label " + labelName, old.Labels[labelName], now.Labels[labelName]},
		{"the label " + labelManaged, old.Labels[labelManaged], now.Labels[labelManaged]},
		{"the label " + labelKey, old.Labels[labelKey], now.Labels[labelKey]},
	} {
		if !reflect.DeepEqual(field.old, field.now) {
			return field.name
		}
	}
	return ""
}
