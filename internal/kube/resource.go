package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	apidiscovery "k8s.io/api/apidiscovery/v2"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// resource is a type of objects that can be targets.
type resource struct {
	schema.GroupVersionResource
	scale   bool // it has a scale subresource
	cluster bool // its objects are in no namespace
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

// lookUp finds a resource by a name that kubectl takes: singular, plural or
// short, with group or version and group behind it. Errors: *ResourceError.
func (c *Cluster) lookUp(ctx context.Context, name string) (resource, error) {
	if r, ok := builtin(name); ok {
		return resource{GroupVersionResource: r}, nil
	}
	// The core's come first, as in kubectl; after them the server's own order counts.
	var groups []apidiscovery.APIGroupDiscovery
	for _, root := range []string{"/api", "/apis"} {
		more, err := c.discover(ctx, root)
		if err != nil {
			return resource{}, err
		}
		groups = append(groups, more...)
	}
	for _, match := range []func(apidiscovery.APIResourceDiscovery, string) bool{isNamed, isShort} {
		r, ok := search(groups, name, match)
		if r.cluster {
			return r, &ResourceError{Resource: name, Kind: ErrNoPods}
		}
		if ok {
			return r, nil
		}
	}
	return resource{}, &ResourceError{Resource: name, Kind: ErrUnknownResource}
}

// discover reads all resources below /api or /apis at once, which servers
// offer from Kubernetes 1.27 on.
func (c *Cluster) discover(ctx context.Context, root string) ([]apidiscovery.APIGroupDiscovery, error) {
	ctx, cancel := c.foreground(ctx)
	defer cancel()
	data, err := c.api.Get().AbsPath(root).SetHeader("Accept",
		"application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,"+
			"application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList").Do(ctx).Raw()
	if err != nil {
		return nil, c.failed(ctx, err, act{verb: "get", resource: schema.GroupResource{Resource: root}})
	}
	var list apidiscovery.APIGroupDiscoveryList
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("discover resources: %w", err)
	}
	return list.Items, nil
}

// search finds the first resource for which match is true of its name.
func search(groups []apidiscovery.APIGroupDiscovery, name string, match func(apidiscovery.APIResourceDiscovery, string) bool) (resource, bool) {
	name, group, _ := strings.Cut(name, ".")
	for _, g := range groups {
		for _, v := range g.Versions {
			if group != "" && group != g.Name && group != v.Version+"."+g.Name {
				continue
			}
			for _, r := range v.Resources {
				if match(r, name) {
					return found(g.Name, v.Version, r), true
				}
			}
		}
	}
	return resource{}, false
}

func found(group, version string, r apidiscovery.APIResourceDiscovery) resource {
	isScale := func(s apidiscovery.APISubresourceDiscovery) bool { return s.Subresource == "scale" }
	return resource{
		GroupVersionResource: schema.GroupVersionResource{Group: group, Version: version, Resource: r.Resource},
		scale:                slices.ContainsFunc(r.Subresources, isScale),
		cluster:              r.Scope == apidiscovery.ScopeCluster,
	}
}

func isNamed(r apidiscovery.APIResourceDiscovery, name string) bool {
	kind := r.ResponseKind != nil && strings.EqualFold(r.ResponseKind.Kind, name)
	return name == r.Resource || name == r.SingularResource || kind
}

func isShort(r apidiscovery.APIResourceDiscovery, name string) bool {
	return slices.Contains(r.ShortNames, name)
}

// IsResource tells whether a word is a name of one of the resources that are in every cluster.
func IsResource(word string) bool {
	_, ok := builtin(strings.ToLower(word))
	return ok
}
