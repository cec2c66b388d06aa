package kube

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"sigs.k8s.io/yaml"
)

// patchable are the fields of an ephemeral container that a user may set.
var patchable = []string{"env", "envFrom", "securityContext", "volumeMounts"}

// ErrPatch means that a patch has what an agent's container cannot have.
var ErrPatch = errors.New("an agent's container cannot have it")

// PatchError says what is wrong with a patch for an agent's container.
type PatchError struct {
	Field string // "" if it cannot be read at all
	Err   error
}

func (e *PatchError) Error() string {
	if e.Field == "" {
		return fmt.Sprintf("patch of the agent's container: %v", e.Err)
	}
	return fmt.Sprintf("patch of the agent's container: %s: %v", e.Field, e.Err)
}

func (e *PatchError) Unwrap() error { return e.Err }

// ReadAgentPatch reads a patch for Agents from YAML or JSON. Errors: *PatchError.
func ReadAgentPatch(text []byte) ([]byte, error) {
	patch, err := yaml.YAMLToJSONStrict(text)
	if err != nil {
		return nil, &PatchError{Err: err}
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(patch, &fields); err != nil || len(fields) == 0 {
		return nil, &PatchError{Err: fmt.Errorf("want a mapping of %s", strings.Join(patchable, ", "))}
	}
	for _, field := range slices.Sorted(maps.Keys(fields)) {
		if !slices.Contains(patchable, field) {
			return nil, &PatchError{Field: field, Err: ErrPatch}
		}
	}
	a := &Agents{Patch: patch}
	return patch, a.patch(&corev1.EphemeralContainer{})
}

// mergePatch merges a strategic merge patch, as JSON, into an object. Fields that the object cannot have
// are errors.
func mergePatch[T any](object T, patch []byte) (patched T, err error) {
	original, err := json.Marshal(object)
	if err != nil {
		return patched, err
	}
	merged, err := strategicpatch.StrategicMergePatch(original, patch, object)
	if err != nil {
		return patched, err
	}
	decoder := json.NewDecoder(bytes.NewReader(merged))
	decoder.DisallowUnknownFields()
	return patched, decoder.Decode(&patched)
}
