package kube

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"porthole.dev/porthole/internal/spelling"
	"porthole.dev/porthole/internal/target"
)

const (
	// completeLimit is how long a person may wait for a shell's completion.
	completeLimit = 2 * time.Second
	// maxNames is how many objects are asked for when looking for names.
	maxNames = 500
)

// shortNames are the types of targets that a shell offers, as they are typed.
func shortNames() []string { return []string{"pod", "svc", "deploy", "sts", "ds", "rs", "job"} }

// CompleteTargets are the targets of a namespace ("" for the Cluster's) that begin
// with prefix. Without a slash those are pods, and types with their slash. It
// takes two seconds at most; what cannot be found out is left out.
func (c *Cluster) CompleteTargets(ctx context.Context, namespace, prefix string) []string {
	ctx, cancel := context.WithTimeout(ctx, completeLimit)
	defer cancel()
	namespace = cmp.Or(namespace, c.Namespace)
	kind, part, typed := strings.Cut(prefix, "/")
	if !typed {
		var all []string
		for _, name := range shortNames() {
			all = append(all, name+"/")
		}
		names, _ := c.names(ctx, podResource(), namespace)
		return beginning(append(names, all...), "", prefix)
	}
	r, err := c.lookUp(ctx, strings.ToLower(kind))
	if err != nil {
		return nil
	}
	names, _ := c.names(ctx, r.GroupVersionResource, namespace)
	return beginning(names, kind+"/", part)
}

func beginning(names []string, before, prefix string) (all []string) {
	for _, name := range names {
		if strings.HasPrefix(name, prefix) {
			all = append(all, before+name)
		}
	}
	return all
}

// CompletePorts are the TCP ports of a target that begin with prefix, each as
// NUMBER and, where it has one, its name after a tab. The limits are those of
// CompleteTargets.
func (c *Cluster) CompletePorts(ctx context.Context, namespace string, t target.Target, prefix string) []string {
	ctx, cancel := context.WithTimeout(ctx, completeLimit)
	defer cancel()
	declared, err := c.declared(ctx, cmp.Or(namespace, c.Namespace), t)
	if err != nil {
		return nil
	}
	var all []string
	for _, p := range declared {
		text := strconv.Itoa(int(p.number))
		if p.protocol != corev1.ProtocolTCP || !strings.HasPrefix(text, prefix) {
			continue
		}
		if p.name != "" {
			text += "\t" + p.name
		}
		all = append(all, text)
	}
	return all
}

// declared are the ports that a target says it has.
func (c *Cluster) declared(ctx context.Context, namespace string, t target.Target) (ports, error) {
	r, err := c.lookUp(ctx, t.Resource)
	if err != nil {
		return nil, err
	}
	switch r.GroupVersionResource {
	case serviceResource():
		var s corev1.Service
		err = c.get(ctx, r.GroupVersionResource, namespace, t.Name, &s)
		return servicePorts(&s), err
	case podResource():
		var p corev1.Pod
		err = c.get(ctx, r.GroupVersionResource, namespace, t.Name, &p)
		return podPorts(p.Spec.Containers, p.Spec.InitContainers), err
	}
	var w workload
	err = c.getJSON(ctx, r.GroupVersionResource, namespace, t.Name, &w)
	return podPorts(w.Spec.Template.Spec.Containers, w.Spec.Template.Spec.InitContainers), err
}

// names lists the names of objects of any type, sorted.
func (c *Cluster) names(ctx context.Context, resource schema.GroupVersionResource, namespace string) ([]string, error) {
	options := metav1.ListOptions{Limit: maxNames}
	data, err := c.request(http.MethodGet, resource, namespace).VersionedParams(&options, c.params).
		SetHeader("Accept", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json").Do(ctx).Raw()
	if err != nil {
		return nil, err
	}
	var list metav1.PartialObjectMetadataList
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("list names of %s: %w", resource.Resource, err)
	}
	var names []string
	for _, item := range list.Items {
		names = append(names, item.Name)
	}
	slices.Sort(names)
	return names, nil
}

// CompleteNamespaces are the namespaces that begin with prefix, within the limits of
// CompleteTargets.
func (c *Cluster) CompleteNamespaces(ctx context.Context, prefix string) []string {
	ctx, cancel := context.WithTimeout(ctx, completeLimit)
	defer cancel()
	names, _ := c.names(ctx, namespaceResource(), "")
	return beginning(names, "", prefix)
}

// likeNamespace are the namespaces with a name like one that is missing. Where the
// user may not see it, it is taken to be there.
func (c *Cluster) likeNamespace(ctx context.Context, name string) (like []string, missing bool) {
	ctx, cancel := context.WithTimeout(ctx, completeLimit)
	defer cancel()
	err := c.api.Get().AbsPath("/api/v1").Resource("namespaces").Name(name).Do(ctx).Error()
	if !apierrors.IsNotFound(err) {
		return nil, false
	}
	names, _ := c.names(ctx, namespaceResource(), "")
	for _, other := range names {
		if similar(other, name) {
			like = append(like, other)
		}
	}
	return like, true
}

// like are targets that there are, and that may have been meant by one that is
// not there: others of its name, and of its type those with a similar one.
func (c *Cluster) like(ctx context.Context, namespace string, t target.Target) []string {
	ctx, cancel := context.WithTimeout(ctx, completeLimit)
	defer cancel()
	kinds := shortNames()
	if _, ok := builtin(t.Resource); !ok {
		kinds = append(kinds, t.Resource)
	}
	found := make([][]string, len(kinds))
	var asking sync.WaitGroup
	for i, kind := range kinds {
		asking.Go(func() { found[i] = c.likeOf(ctx, namespace, kind, t) })
	}
	asking.Wait()
	const most = 5
	all := slices.Concat(found...)
	return all[:min(most, len(all))]
}

func (c *Cluster) likeOf(ctx context.Context, namespace, kind string, t target.Target) (all []string) {
	r, err := c.lookUp(ctx, kind)
	if err != nil {
		return nil
	}
	meant, _ := builtin(t.Resource)
	same := kind == t.Resource || r.GroupVersionResource == meant
	names, _ := c.names(ctx, r.GroupVersionResource, namespace)
	for _, name := range names {
		if !same && name == t.Name || same && similar(name, t.Name) {
			all = append(all, kind+"/"+name)
		}
	}
	return all
}

// similar says whether one name is the beginning of the other, as a workload's is
// of its pods', or has the same letters but two, or in another order.
func similar(a, b string) bool {
	return strings.HasPrefix(a, b) || strings.HasPrefix(b, a) || spelling.Distance(a, b) <= 2 && min(len(a), len(b)) > 3 || sorted(a) == sorted(b)
}

func sorted(s string) string {
	letters := []byte(s)
	slices.Sort(letters)
	return string(letters)
}
