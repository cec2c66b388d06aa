package kube

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/restmapper"
)

// resource is a type of objects that can be targets.
type resource struct {
	schema.GroupVersionResource
	scale bool // it has a scale subresource
}

// builtin knows the resources that are in every cluster, by all their names, so
// that the server need not be asked for all the types that it has.
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

// lookUp finds a resource by a name that kubectl takes: singular, plural, short or
// its kind, with group or version and group behind it. Errors: *ResourceError.
func (c *Cluster) lookUp(ctx context.Context, name string) (resource, error) {
	if r, ok := builtin(name); ok {
		return resource{GroupVersionResource: r}, nil
	}
	ctx, cancel := c.foreground(ctx)
	defer cancel()
	_, known, partly := c.types.ServerGroupsAndResourcesWithContext(ctx)
	if len(known) == 0 && partly != nil {
		return resource{}, c.failed(ctx, partly, apiAction{verb: "get", resource: schema.GroupResource{Resource: "/apis"}})
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

// IsResource tells whether a word is a name of one of the resources that are in every cluster.
func IsResource(word string) bool {
	_, ok := builtin(strings.ToLower(word))
	return ok
}
