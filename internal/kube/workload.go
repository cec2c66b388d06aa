package kube

import (
	"context"
	"encoding/json"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/scale"
)

// workload is what this package reads of an object that has pods, whatever its type.
type workload struct {
	Spec struct {
		Replicas *int32
		Selector json.RawMessage
		Template struct {
			Spec struct{ Containers, InitContainers []corev1.Container }
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
	if err := c.getJSON(ctx, r.GroupVersionResource, namespace, name, &w); err != nil {
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
	path := func(schema.GroupVersionKind) string { return "/apis" } // /api has none that would have to be looked up
	client := scale.New(c.api, found(r.GroupVersionResource), path, nil)
	now, err := client.Scales(namespace).Get(ctx, r.GroupResource(), name, metav1.GetOptions{})
	if apierrors.IsForbidden(err) || apierrors.IsNotFound(err) {
		return "", 0, nil
	}
	if err != nil {
		return "", 0, c.failed(ctx, err, apiAction{"get", r.GroupResource(), "scale", namespace, name})
	}
	return now.Status.Selector, now.Spec.Replicas, nil
}

// found is a resource that need not be looked up again.
type found schema.GroupVersionResource

// ResourceFor implements scale.PreferredResourceMapper.
func (f found) ResourceFor(schema.GroupVersionResource) (schema.GroupVersionResource, error) {
	return schema.GroupVersionResource(f), nil
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
