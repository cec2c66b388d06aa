package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/scale"
)

// resource is a type of objects that can be targets.
type resource struct {
	schema.GroupVersionResource
	scale bool // it has a scale subresource
}

// builtin finds the resources that are in every cluster by any of their names, so
// that the server need not be asked for all of its types.
func builtin(name string) (schema.GroupVersionResource, bool) {
	name, group, _ := strings.Cut(name, ".")
	var r schema.GroupVersionResource
	switch name {
	case "po", "pod", "pods":
		r = podResource()
	case "svc", "service", "services":
		r = serviceResource()
	case "rc", "replicationcontroller", "replicationcontrollers":
		r = schema.GroupVersionResource{Version: "v1", Resource: "replicationcontrollers"}
	case "deploy", "deployment", "deployments":
		r = apps("deployments")
	case "rs", "replicaset", "replicasets":
		r = apps("replicasets")
	case "sts", "statefulset", "statefulsets":
		r = apps("statefulsets")
	case "ds", "daemonset", "daemonsets":
		r = apps("daemonsets")
	case "job", "jobs":
		r = schema.GroupVersionResource{Group: "batch", Version: "v1", Resource: "jobs"}
	default:
		return r, false
	}
	return r, group == "" || group == r.Group || group == r.Version+"."+r.Group
}

func apps(name string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: name}
}

// findResource finds a resource by a name that kubectl takes: singular, plural, short or
// its kind, with group or version and group behind it. Errors: *ResourceError.
func (c *Cluster) findResource(ctx context.Context, name string) (resource, error) {
	if r, ok := builtin(name); ok {
		return resource{GroupVersionResource: r}, nil
	}
	ctx, cancel := c.foreground(ctx)
	defer cancel()
	_, known, partly := c.types.ServerGroupsAndResourcesWithContext(ctx)
	if len(known) == 0 && partly != nil {
		return resource{}, c.requestError(ctx, partly, apiAction{verb: "get", resource: schema.GroupVersionResource{Resource: "/apis"}})
	}
	found, err := c.mapping(ctx, name)
	if err != nil {
		c.mapper.ResetWithContext(ctx) // it may be there when it is looked for again
	}
	switch {
	case meta.IsNoMatchError(err) && discovery.IsGroupDiscoveryFailedError(partly):
		return resource{}, fmt.Errorf("look for %s: %w", name, partly)
	case meta.IsNoMatchError(err):
		return resource{}, &ResourceError{Resource: name, Kind: ErrUnknownResource}
	case err != nil:
		return resource{}, fmt.Errorf("look for %s: %w", name, err)
	case found.Scope.Name() == meta.RESTScopeNameRoot:
		return resource{}, &ResourceError{Resource: name, Kind: ErrNoPods}
	}
	return resource{found.Resource, hasScale(known, found.Resource)}, nil
}

// mapping finds what a name stands for, in the order that kubectl has: a resource
// before a kind, with a version before without.
func (c *Cluster) mapping(ctx context.Context, name string) (*meta.RESTMapping, error) {
	names := restmapper.NewShortcutExpanderWithContext(c.mapper, c.types, nil)
	full, partial := schema.ParseResourceArg(name)
	each := []schema.GroupVersionResource{partial.WithVersion("")}
	if full != nil {
		each = []schema.GroupVersionResource{*full, each[0]}
	}
	for _, r := range each {
		kind, err := names.KindForWithContext(ctx, r)
		if err == nil {
			return names.RESTMappingWithContext(ctx, kind.GroupKind(), kind.Version)
		}
		if !meta.IsNoMatchError(err) {
			return nil, err
		}
	}
	fullKind, kind := schema.ParseKindArg(name)
	if fullKind != nil {
		if found, err := names.RESTMappingWithContext(ctx, fullKind.GroupKind(), fullKind.Version); err == nil {
			return found, nil
		}
	}
	return names.RESTMappingWithContext(ctx, kind)
}

// hasScale says whether a resource has a scale subresource.
func hasScale(known []*metav1.APIResourceList, r schema.GroupVersionResource) bool {
	isScale := func(sub metav1.APIResource) bool { return sub.Name == r.Resource+"/scale" }
	return slices.ContainsFunc(known, func(list *metav1.APIResourceList) bool {
		return list.GroupVersion == r.GroupVersion().String() && slices.ContainsFunc(list.APIResources, isScale)
	})
}

// IsResource reports whether a word names one of the resources that every cluster has.
func IsResource(word string) bool {
	_, ok := builtin(strings.ToLower(word))
	return ok
}

// workload is what this package reads of an object that has pods, whatever its type.
type workload struct {
	Spec struct {
		Replicas *int32
		Ordinals struct{ Start int32 } // of a StatefulSet
		Selector json.RawMessage
		Template struct {
			Spec struct{ Containers, InitContainers []corev1.Container }
		}
	}
}

// scaleSelector returns the label selector of an object's pods from its scale, and how
// many pods it is meant to have. The selector is "" if the user may not see the scale, or
// the object has none.
func (c *Cluster) scaleSelector(ctx context.Context, r resource, namespace, name string) (string, int32, error) {
	path := func(schema.GroupVersionKind) string { return "/apis" } // what /api has is builtin, and not asked for its scale
	client := scale.New(c.api, foundResource(r.GroupVersionResource), path, nil)
	now, err := client.Scales(namespace).Get(ctx, r.GroupResource(), name, metav1.GetOptions{})
	if apierrors.IsForbidden(err) || apierrors.IsNotFound(err) {
		return "", 0, nil
	}
	if err != nil {
		return "", 0, c.requestError(ctx, err, apiAction{"get", r.GroupVersionResource, "scale", namespace, name})
	}
	return now.Status.Selector, now.Spec.Replicas, nil
}

// foundResource is a resource that need not be looked up again.
type foundResource schema.GroupVersionResource

// ResourceFor implements scale.PreferredResourceMapper.
func (f foundResource) ResourceFor(schema.GroupVersionResource) (schema.GroupVersionResource, error) {
	return schema.GroupVersionResource(f), nil
}

// parseSelector reads both forms that selectors have, a LabelSelector and the plain
// map of older types. It returns "" if data is neither, or selects everything.
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
