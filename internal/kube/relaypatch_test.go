package kube_test

import (
	"errors"
	"strings"
	"testing"

	"porthole.dev/porthole/internal/kube"
)

func TestRelayPatch(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":                          "",
		"a comment":                        "# later\n",
		"resources":                        "spec: {containers: [{name: relay, resources: {limits: {memory: 64Mi}}}]}",
		"where it runs":                    "spec: {nodeSelector: {zone: a}, tolerations: [{key: x, operator: Exists}]}",
		"pull secrets and labels, as JSON": `{"metadata": {"labels": {"team": "a"}, "annotations": {"b": "c"}}, "spec": {"imagePullSecrets": [{"name": "d"}]}}`,
		"security":                         "spec: {securityContext: {runAsUser: 1000}}",
	} {
		if _, err := kube.ReadPatch(kube.RelayPatch, []byte(text)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for text, want := range map[string]string{
		"spec: {tolerationz: []}": "spec.tolerationz: there is no such field",
		"spec: [":                 "line 1: not YAML",
		"[]":                      "template: want a mapping",
		"spec: {containers: [{name: relay, resources: {limits: {cpu: much}}}]}": "quantities must match",
		"spec: {containers: [{image: x}]}":                                      "an entry of a list lacks",
		"spec: {hostNetwork: true}":                                             "may not change spec.hostNetwork",
		"spec: {hostPID: true}":                                                 "may not change spec.hostPID",
		"spec: {hostIPC: true}":                                                 "may not change spec.hostIPC",
		"spec: {restartPolicy: OnFailure}":                                      "may not change spec.restartPolicy",
		"spec: {automountServiceAccountToken: true}":                            "may not change spec.automountServiceAccountToken",
		"spec: {automountServiceAccountToken: null}":                            "may not change spec.automountServiceAccountToken",
		"spec: {initContainers: [{name: a, image: b}]}":                         "may not change spec.initContainers",
		"spec: {containers: [{name: relay, args: [x]}]}":                        "may not change the container's args",
		"spec: {containers: [{name: relay, command: [x]}]}":                     "may not change the container's command",
		"spec: {containers: [{name: relay, image: x}]}":                         "may not change the container's image",
		"spec: {containers: [{name: other, image: x}]}":                         "may not change spec.containers",
		"spec: {containers: null}":                                              "may not change spec.containers",
		"spec: null":                                                            "may not change spec.containers",
		"metadata: {labels: {app.kubernetes.io/managed-by: x}}":                 "may not change the label app.kubernetes.io/managed-by",
		"metadata: {labels: null}":                                              "may not change the label app.kubernetes.io/name",
	} {
		if _, err := kube.ReadPatch(kube.RelayPatch, []byte(text)); !errors.As(err, new(*kube.PatchError)) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func FuzzReadPatch(f *testing.F) {
	f.Add("spec: {nodeSelector: {zone: a}}")
	f.Add(`{"spec": {"containers": [{"name": "relay", "args": null}]}}`)
	f.Fuzz(func(t *testing.T, text string) {
		for _, of := range []kube.PatchKind{kube.AgentPatch, kube.RelayPatch} {
			if patch, err := kube.ReadPatch(of, []byte(text)); err != nil && patch != "" {
				t.Errorf("%q: both %q and %v", text, patch, err)
			}
		}
	})
}
