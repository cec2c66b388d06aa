package kube

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"

	"go.yaml.in/yaml/v4"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	kubejson "sigs.k8s.io/json"
	kubeyaml "sigs.k8s.io/yaml"

	"porthole.dev/porthole/internal/pinned"
)

// Patch is a strategic merge patch, as JSON; "" changes nothing.
type Patch string

// PatchKind says what a patch is of.
type PatchKind string

// The kinds of patches.
const (
	AgentPatch PatchKind = "an agent's container"
	RelayPatch PatchKind = "a relay's pod template"
)

// agentFields are the fields of an ephemeral container that a user may set.
type agentFields struct {
	Env             []corev1.EnvVar         `json:"env"`
	EnvFrom         []corev1.EnvFromSource  `json:"envFrom"`
	SecurityContext *corev1.SecurityContext `json:"securityContext"`
	VolumeMounts    []corev1.VolumeMount    `json:"volumeMounts"`
}

// PatchError says what is wrong with a patch.
type PatchError struct {
	Of    PatchKind
	Line  int    // from 1; 0 if it is not known
	Field string // as spec.containers[0].name; "" if it is about the whole
	Err   error
}

func (e *PatchError) Error() string {
	text := fmt.Sprintf("patch of %s: ", e.Of)
	if e.Line > 0 {
		text += fmt.Sprintf("line %d: ", e.Line)
	}
	if e.Field != "" {
		text += e.Field + ": "
	}
	return text + e.Err.Error()
}

func (e *PatchError) Unwrap() error { return e.Err }

// ReadPatch reads a patch in YAML or JSON, and reports fields that it cannot have, or may not change.
// Errors: *PatchError.
func ReadPatch(of PatchKind, text []byte) (patch Patch, err error) {
	if err := checkYAML(of, text); err != nil {
		return "", err
	}
	data, err := kubeyaml.YAMLToJSON(text)
	if err != nil {
		return "", &PatchError{Of: of, Err: errors.New("a key is no text")} // all else is checked
	}
	if patch = Patch(data); patch == "null" {
		return "", nil
	}
	if of == AgentPatch {
		if err = checkFields[agentFields](of, data); err == nil {
			err = (&Agents{Patch: patch}).patch(new(corev1.EphemeralContainer))
		}
	} else if err = checkFields[corev1.PodTemplateSpec](of, data); err == nil {
		_, err = (&Agents{Image: "image", RelayPatch: patch}).relayTemplate(pinned.PublicKey{})
	}
	if err != nil {
		return "", err
	}
	return patch, nil
}

// checkYAML reports what is no YAML, and all but one document.
func checkYAML(of PatchKind, text []byte) error {
	loader, err := yaml.NewLoader(bytes.NewReader(text))
	if err != nil {
		return &PatchError{Of: of, Err: err}
	}
	var document any
	var second yaml.Node
	if err = loader.Load(&document); err == nil {
		err = loader.Load(&second)
	}
	switch wrong, ok := errors.AsType[*yaml.LoadError](err); {
	case ok:
		last := 1 + bytes.Count(bytes.TrimSpace(text), []byte("\n")) // where something is missing at the end
		return &PatchError{Of: of, Line: min(wrong.Mark.Line, last), Err: errors.New("not YAML: " + wrong.Message)}
	case err == nil:
		return &PatchError{Of: of, Line: second.Line, Err: errors.New("a second document begins here, and a patch has one")}
	case !errors.Is(err, io.EOF):
		return &PatchError{Of: of, Err: errors.New("not YAML")}
	}
	return nil
}

// checkFields reports a field that is none of T's, or has a value of another type.
func checkFields[T any](of PatchKind, data []byte) error {
	unknown, err := kubejson.UnmarshalStrict(data, new(T))
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return &PatchError{Of: of, Field: wrong.Field, Err: errors.New("want " + inWords(wrong.Type.Kind()))}
	}
	if err != nil { // what Kubernetes says of a value of its own, such as a quantity
		return &PatchError{Of: of, Err: err}
	}
	if len(unknown) == 0 {
		return nil
	}
	e := &PatchError{Of: of, Err: unknown[0]}
	if field, ok := errors.AsType[kubejson.FieldError](unknown[0]); ok {
		e.Field, e.Err = field.FieldPath(), errors.New("there is no such field in a patch")
	}
	return e
}

func inWords(kind reflect.Kind) string {
	switch kind {
	case reflect.Struct, reflect.Map:
		return "a mapping"
	case reflect.Slice:
		return "a list"
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "text"
	}
	return "a number"
}

// mergePatch returns an object with a patch, which has been checked, merged into it.
func mergePatch[T any](of PatchKind, object T, patch Patch) (patched T, err error) {
	if patch == "" {
		return object, nil
	}
	original, err := json.Marshal(object)
	if err != nil {
		return patched, err
	}
	merged, err := strategicpatch.StrategicMergePatch(original, []byte(patch), object)
	if err == nil {
		err = kubejson.UnmarshalCaseSensitivePreserveInts(merged, &patched)
	}
	if err != nil {
		return object, &PatchError{Of: of, Err: errors.New("an entry of a list lacks what tells it from the others, such as name, or mountPath in volumeMounts")}
	}
	return patched, nil
}
