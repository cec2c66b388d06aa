package kube

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"porthole.dev/porthole/internal/portforward"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
)

// Declared is an object that can be forwarded to, and the ports that it declares.
type Declared struct {
	Target target.Target
	State  string // of a pod: its phase, such as Running; "" for others
	Ports  []DeclaredPort
}

// DeclaredPort is a port that a service, a pod or a workload's pods declare. Whether something listens there is another matter.
type DeclaredPort struct {
	Network target.Network // TCP or UDP; others are left out
	Number  uint16
	Name    string // or ""
}

// Targets returns the pods, services and workloads of the Cluster's namespace, 500 of each at most, in the order of their
// names. The error is of the first kind that could not be listed; the others are returned with it.
func (c *Cluster) Targets(ctx context.Context) (all []Declared, err error) {
	lists := []func(context.Context) ([]Declared, error){c.declaredPods, c.declaredServices}
	for _, kind := range []string{"deploy", "sts", "ds"} {
		lists = append(lists, func(ctx context.Context) ([]Declared, error) { return c.declaredWorkloads(ctx, kind) })
	}
	found, errs := make([][]Declared, len(lists)), make([]error, len(lists))
	var asking sync.WaitGroup
	for i, list := range lists {
		asking.Go(func() { found[i], errs[i] = list(ctx) })
	}
	asking.Wait()
	for i := range lists {
		slices.SortFunc(found[i], func(a, b Declared) int { return strings.Compare(a.Target.Name, b.Target.Name) })
		err = cmp.Or(err, errs[i])
	}
	return slices.Concat(found...), err
}

func (c *Cluster) declaredPods(ctx context.Context) (all []Declared, err error) {
	var list corev1.PodList
	err = c.list(ctx, podResource(), c.Namespace, metav1.ListOptions{Limit: maxNames}, &list)
	for _, p := range list.Items {
		ports := podPorts(p.Spec.Containers, p.Spec.InitContainers)
		all = append(all, Declared{declaredTarget("pod", p.Name), string(p.Status.Phase), ports.declared()})
	}
	return all, err
}

func (c *Cluster) declaredServices(ctx context.Context) (all []Declared, err error) {
	var list corev1.ServiceList
	err = c.list(ctx, serviceResource(), c.Namespace, metav1.ListOptions{Limit: maxNames}, &list)
	for _, s := range list.Items {
		all = append(all, Declared{declaredTarget("svc", s.Name), "", servicePorts(&s).declared()})
	}
	return all, err
}

// declaredWorkloads lists the workloads of a kind of apps, by the name that people type for it.
func (c *Cluster) declaredWorkloads(ctx context.Context, kind string) (all []Declared, err error) {
	r, _ := builtin(kind)
	data, err := c.rawList(ctx, r)
	var list struct {
		Items []struct {
			Metadata metav1.ObjectMeta
			workload
		}
	}
	if err == nil {
		err = json.Unmarshal(data, &list)
	}
	for _, w := range list.Items {
		ports := podPorts(w.Spec.Template.Spec.Containers, w.Spec.Template.Spec.InitContainers)
		all = append(all, Declared{declaredTarget(kind, w.Metadata.Name), "", ports.declared()})
	}
	return all, err
}

// rawList lists objects of the Cluster's namespace as JSON, of types that the client does not know.
func (c *Cluster) rawList(ctx context.Context, r schema.GroupVersionResource) ([]byte, error) {
	a := apiAction{"list", r, "", c.Namespace, ""}
	options := metav1.ListOptions{Limit: maxNames}
	data, err := c.request(a).VersionedParams(&options, c.params).SetHeader("Accept", "application/json").Do(ctx).Raw()
	return data, c.requestError(ctx, err, a)
}

func declaredTarget(kind, name string) target.Target {
	return target.Target{Scheme: target.Kubernetes, Resource: kind, Name: name}
}

// declared are the ports for others than this package.
func (all ports) declared() (declared []DeclaredPort) {
	for _, p := range all {
		if network, ok := map[corev1.Protocol]target.Network{corev1.ProtocolTCP: target.TCP, corev1.ProtocolUDP: target.UDP}[p.protocol]; ok {
			declared = append(declared, DeclaredPort{network, p.number, p.name})
		}
	}
	return declared
}

// DeclaredPorts are the ports that one target declares. Errors: those of Route.Open.
func (c *Cluster) DeclaredPorts(ctx context.Context, t target.Target) ([]DeclaredPort, error) {
	all, err := c.declaredPorts(ctx, c.Namespace, t)
	if err != nil {
		return nil, c.notFound(ctx, c.Namespace, t, err)
	}
	return all.declared(), nil
}

// Listening returns what really listens in a pod, as porthole on its node tells it. The error is ErrUnsupported for a
// node that does not run porthole, and for targets other than a pod.
func (c *Cluster) Listening(ctx context.Context, t target.Target) (sockets []target.Socket, err error) {
	r, err := c.findResource(ctx, t.Resource)
	if err != nil {
		return nil, err
	}
	if r.GroupVersionResource != podResource() {
		return nil, fmt.Errorf("%s is no pod: %w", t, target.ErrUnsupported)
	}
	client := &portforward.Client{
		URL: c.request(portForwardTo(c.Namespace, t.Name)).URL(), Transport: c.tunnels, Ways: &c.ways,
		SPDYOnly: SPDYOnly(), KeepWebSocket: KeepWebSocket(), MaxTunnels: 1, Again: c.pauseTunnels(),
	}
	defer client.Close()
	return route.Watch(client.Listening).First(ctx)
}
