package kube

import (
	"errors"
	"fmt"
	"reflect"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"porthole.dev/porthole/internal/pinned"
)

// ErrRelayPatch means that a patch cannot be applied, or changes what it may not.
var ErrRelayPatch = errors.New("patch of a relay's pod template")

// RelayPatch is a strategic merge patch of the relay's pod template, as JSON; "" changes nothing.
type RelayPatch string

// ParseRelayPatch reads a patch in YAML or JSON, and reports fields that a pod template does not
// have, and those that may not be changed. Errors: ErrRelayPatch.
func ParseRelayPatch(text []byte) (RelayPatch, error) {
	var strict corev1.PodTemplateSpec
	if err := yaml.UnmarshalStrict(text, &strict); err != nil {
		return "", fmt.Errorf("%w: %w", ErrRelayPatch, err)
	}
	data, err := yaml.YAMLToJSON(text)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrRelayPatch, err)
	}
	if string(data) == "null" {
		return "", nil
	}
	patch := RelayPatch(data)
	if _, err := patch.apply((&Agents{Image: "image"}).relayTemplate(pinned.PublicKey{})); err != nil {
		return "", err
	}
	return patch, nil
}

// apply returns the patched template. Errors: ErrRelayPatch.
func (p RelayPatch) apply(template corev1.PodTemplateSpec) (corev1.PodTemplateSpec, error) {
	if p == "" {
		return template, nil
	}
	patched, err := mergePatch(template, []byte(p))
	if err != nil {
		return template, fmt.Errorf("%w: %w", ErrRelayPatch, err)
	}
	if field := changedField(template, patched); field != "" {
		return template, fmt.Errorf("%w: it may not change %s", ErrRelayPatch, field)
	}
	return patched, nil
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
