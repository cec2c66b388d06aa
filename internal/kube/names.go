package kube

import (
	"cmp"
	"context"
	"encoding/json"
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
// with prefix. For a prefix without a slash those are pods, and types with a slash
// behind them. It takes two seconds at most; what cannot be read by then is left out.
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
		names := c.names(ctx, podResource(), namespace)
		return withPrefix(append(names, all...), "", prefix)
	}
	r, err := c.findResource(ctx, strings.ToLower(kind))
	if err != nil {
		return nil
	}
	names := c.names(ctx, r.GroupVersionResource, namespace)
	return withPrefix(names, kind+"/", part)
}

func withPrefix(names []string, before, prefix string) (all []string) {
	for _, name := range names {
		if strings.HasPrefix(name, prefix) {
			all = append(all, before+name)
		}
	}
	return all
}

// CompletePorts are the TCP ports of a target that begin with prefix: each is a
// number, with the port's name behind a tab if it has one. The limits are those of
// CompleteTargets.
func (c *Cluster) CompletePorts(ctx context.Context, namespace string, t target.Target, prefix string) []string {
	ctx, cancel := context.WithTimeout(ctx, completeLimit)
	defer cancel()
	declared, err := c.declaredPorts(ctx, cmp.Or(namespace, c.Namespace), t)
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

// declaredPorts are the ports that a target declares.
func (c *Cluster) declaredPorts(ctx context.Context, namespace string, t target.Target) (ports, error) {
	r, err := c.findResource(ctx, t.Resource)
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
	err = c.get(ctx, r.GroupVersionResource, namespace, t.Name, &w)
	return podPorts(w.Spec.Template.Spec.Containers, w.Spec.Template.Spec.InitContainers), err
}

// names are the names of objects of any type, sorted; none if they cannot be read.
func (c *Cluster) names(ctx context.Context, resource schema.GroupVersionResource, namespace string) (names []string) {
	options := metav1.ListOptions{Limit: maxNames}
	data, err := c.request(apiAction{"list", resource, "", namespace, ""}).VersionedParams(&options, c.params).
		SetHeader("Accept", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json").Do(ctx).Raw()
	var list metav1.PartialObjectMetadataList
	if err != nil || json.Unmarshal(data, &list) != nil {
		return nil
	}
	for _, item := range list.Items {
		names = append(names, item.Name)
	}
	slices.Sort(names)
	return names
}

// CompleteNamespaces are the namespaces that begin with prefix, within the limits of
// CompleteTargets.
func (c *Cluster) CompleteNamespaces(ctx context.Context, prefix string) []string {
	ctx, cancel := context.WithTimeout(ctx, completeLimit)
	defer cancel()
	names := c.names(ctx, namespaceResource(), "")
	return withPrefix(names, "", prefix)
}

// similarNamespaces are the namespaces with a name like one that is missing. If the
// user may not see that one, it is assumed to exist.
func (c *Cluster) similarNamespaces(ctx context.Context, name string) (similar []string, missing bool) {
	ctx, cancel := context.WithTimeout(ctx, completeLimit)
	defer cancel()
	err := c.request(apiAction{verb: "get", resource: namespaceResource(), name: name}).Do(ctx).Error()
	if !apierrors.IsNotFound(err) {
		return nil, false
	}
	different := func(other string) bool { return !isSimilar(other, name) }
	return slices.DeleteFunc(c.names(ctx, namespaceResource(), ""), different), true
}

// similarTargets are targets that exist and may have been meant by one that does not:
// others of the same name, and of the same type those with a similar name.
func (c *Cluster) similarTargets(ctx context.Context, namespace string, t target.Target) []string {
	ctx, cancel := context.WithTimeout(ctx, completeLimit)
	defer cancel()
	kinds := shortNames()
	meant, ok := builtin(t.Resource)
	if !ok {
		kinds = append(kinds, t.Resource)
	}
	found := make([][]string, len(kinds))
	var asking sync.WaitGroup
	for i, kind := range kinds {
		asking.Go(func() {
			r, err := c.findResource(ctx, kind)
			if err != nil {
				return
			}
			same := kind == t.Resource || r.GroupVersionResource == meant
			for _, name := range c.names(ctx, r.GroupVersionResource, namespace) {
				if !same && name == t.Name || same && isSimilar(name, t.Name) {
					found[i] = append(found[i], kind+"/"+name)
				}
			}
		})
	}
	asking.Wait()
	const most = 5
	all := slices.Concat(found...)
	return all[:min(most, len(all))]
}

// isSimilar says whether one name begins with the other, as a pod's does with its
// workload's, differs from it by two letters at most, or has its letters in another order.
func isSimilar(a, b string) bool {
	return strings.HasPrefix(a, b) || strings.HasPrefix(b, a) || spelling.Distance(a, b) <= 2 && min(len(a), len(b)) > 3 || sorted(a) == sorted(b)
}

func sorted(s string) string {
	letters := []byte(s)
	slices.Sort(letters)
	return string(letters)
}
