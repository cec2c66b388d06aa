package kube

import (
	"context"
	"encoding/json"
	"errors"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// workload is what this package reads of an object that has pods, whatever its type.
type workload struct {
	Spec struct {
		Replicas *int32
		Selector json.RawMessage
		Template struct {
			Spec struct{ Containers []corev1.Container }
		}
	}
}

// selector returns the labels of the pods of an object of any type: what its scale
// says, or what it has itself. Errors: *ResourceError; Kubernetes' NotFound.
func (c *Cluster) selector(ctx context.Context, r resource, namespace, name string) (selector string, replicas int32, err error) {
	ctx, cancel := c.foreground(ctx)
	defer cancel()
	if r.scale {
		selector, replicas, err = c.scale(ctx, r, namespace, name)
		if err != nil || selector != "" {
			return selector, replicas, err
		}
	}
	var w workload
	if err := c.getJSON(ctx, r.GroupVersionResource, namespace, name, "", &w); err != nil {
		return "", 0, err
	}
	if selector = parseSelector(w.Spec.Selector); selector == "" {
		return "", 0, &ResourceError{Resource: r.Resource, Kind: ErrNoPods}
	}
	replicas = 1
	if w.Spec.Replicas != nil {
		replicas = *w.Spec.Replicas
	}
	return selector, replicas, nil
}

// scale asks the scale subresource. A user who may not, and an object that has
// none, have the selector "".
func (c *Cluster) scale(ctx context.Context, r resource, namespace, name string) (string, int32, error) {
	var scale struct {
		Spec   struct{ Replicas int32 }
		Status struct{ Selector string }
	}
	err := c.getJSON(ctx, r.GroupVersionResource, namespace, name, "scale", &scale)
	if errors.Is(err, ErrForbidden) || apierrors.IsNotFound(err) {
		return "", 0, nil
	}
	return scale.Status.Selector, scale.Spec.Replicas, err
}

// parseSelector reads both forms that selectors have, a LabelSelector and the
// plain map of older types; "" if it is neither, or selects everything.
func parseSelector(data json.RawMessage) string {
	var plain map[string]string
	if json.Unmarshal(data, &plain) == nil {
		return labels.SelectorFromSet(plain).String()
	}
	var full metav1.LabelSelector
	if json.Unmarshal(data, &full) != nil {
		return ""
	}
	s, err := metav1.LabelSelectorAsSelector(&full)
	if err != nil {
		return ""
	}
	return s.String()
}
