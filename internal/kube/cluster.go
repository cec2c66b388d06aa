package kube

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/util/connrotation"

	"porthole.dev/porthole/internal/portforward"
)

const (
	// requestLimit is how long a request may take that nobody watches.
	requestLimit = 10 * time.Second
	// checkLimit is how long an answer may take that shows that a connection lives.
	checkLimit = 2 * time.Second
)

// Cluster is the way to one cluster's API server, as one user. Its methods are
// safe to call at the same time, and any number of Routes may share it.
type Cluster struct {
	Server    string // URL of the API server
	Namespace string // of targets

	api     *rest.RESTClient
	types   discovery.CachedDiscoveryInterfaceWithContext // asked when it is needed
	mapper  *restmapper.DeferredDiscoveryRESTMapper       // of types
	conns   *connrotation.Dialer                          // all of api's
	tunnels http.RoundTripper                             // what portforward.Client takes
	ways    portforward.Ways                              // by which tunnels get through
	limit   time.Duration                                 // --request-timeout, or 0
	plugin  bool                                          // credentials come from a plugin
	exec    *api.ExecConfig                               // that is a program; else nil
	// impersonated is the user that requests are made as, or "".
	impersonated string
	params       runtime.ParameterCodec

	retries  *RetryLimiter
	recovery *recovery // by what opens tunnels
	checks   chan struct{}
	user     whoami
}

// Open reads the kubeconfig; it does not ask the server anything yet. Close the
// Cluster in the end. Errors: ErrNoConfig, *ContextError, *EntryError.
func Open(c *Config) (*Cluster, error) {
	config, namespace, err := c.load()
	if err != nil {
		return nil, err
	}
	k := &Cluster{Server: config.Host, Namespace: namespace, conns: connrotation.NewDialer(dial)}
	k.retries, k.recovery, k.checks = cmp.Or(c.Retries, new(RetryLimiter)), new(recovery), make(chan struct{}, 1)
	k.limit, config.Timeout = config.Timeout, 0 // as rest.Config has it, watches would end too
	k.plugin = config.ExecProvider != nil || config.AuthProvider != nil
	k.impersonated = config.Impersonate.UserName
	k.exec = config.ExecProvider
	config.WarningHandler = warnings(c.Warn)
	config.QPS = -1 // what this package asks is little, and its connections wait for it
	if err := k.connectAPI(config); err != nil {
		return nil, fmt.Errorf("use kubeconfig: %w", err)
	}
	if err := k.connectTunnels(config); err != nil {
		return nil, fmt.Errorf("use kubeconfig: %w", err)
	}
	return k, nil
}

// warnings hands on what servers warn of (RFC 7234, section 5.5, with the code 299).
type warnings func(text string)

func (w warnings) HandleWarningHeader(code int, _, text string) {
	if w != nil && code == 299 && text != "" {
		w(text)
	}
}

// connectAPI makes the client of ordinary requests. It knows the few types that
// are needed: client-go's clientset would know all, and be several times as big.
func (c *Cluster) connectAPI(config *rest.Config) (err error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, discoveryv1.AddToScheme} {
		if err := add(scheme); err != nil {
			return err
		}
	}
	c.params = runtime.NewParameterCodec(scheme)
	config = rest.CopyConfig(config)
	config.Dial = c.conns.DialContext
	config.APIPath = "/api"
	config.GroupVersion = &corev1.SchemeGroupVersion
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	config.ContentType = runtime.ContentTypeProtobuf
	config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return err
	}
	if c.api, err = rest.RESTClientForConfigAndClient(config, client); err != nil {
		return err
	}
	types, err := discovery.NewDiscoveryClientForConfigAndClient(config, client)
	if err != nil {
		return err
	}
	c.types = memory.NewMemCacheClientWithContext(types)
	c.mapper = restmapper.NewDeferredDiscoveryRESTMapperWithContext(c.types)
	return nil
}

// connectTunnels makes the transport of tunnels. An upgrade takes a connection of
// HTTP/1.1 out of its hands; everything else, from proxies to credentials that
// are renewed, is client-go's.
func (c *Cluster) connectTunnels(config *rest.Config) error {
	config = rest.CopyConfig(config)
	config.Dial = dialBurst
	config.NextProtos = []string{"http/1.1"}
	transport, err := rest.TransportFor(config)
	c.tunnels = noting{transport, c.recovery}
	return err
}

// Close lets go of the connections that lie idle. Close the Routes first.
func (c *Cluster) Close() {
	utilnet.CloseIdleConnectionsFor(c.tunnels)
	c.drop()
}

// drop closes all connections but the tunnels', so that nothing waits for an
// answer on one whose other end is gone.
func (c *Cluster) drop() { c.conns.CloseAll() }

// check drops the connections if a request on them has no answer in time. While one is
// on its way, no other is made.
func (c *Cluster) check(ctx context.Context) {
	select {
	case c.checks <- struct{}{}:
		defer func() { <-c.checks }()
	default:
		return
	}
	ctx, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	err := c.api.Get().AbsPath("/version").Do(ctx).Error()
	var status apierrors.APIStatus
	if err != nil && !errors.As(err, &status) {
		c.drop()
	}
}

// background bounds a request that nobody watches.
func (c *Cluster) background(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, cmp.Or(c.limit, requestLimit))
}

// foreground bounds a request that a person waits for, who can interrupt it: a
// plugin may have them log in before it goes out.
func (c *Cluster) foreground(ctx context.Context) (context.Context, context.CancelFunc) {
	if c.limit == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, c.limit)
}

// The resources that need no look-up.
func podResource() schema.GroupVersionResource { return corev1.SchemeGroupVersion.WithResource("pods") }
func serviceResource() schema.GroupVersionResource {
	return corev1.SchemeGroupVersion.WithResource("services")
}
func namespaceResource() schema.GroupVersionResource {
	return corev1.SchemeGroupVersion.WithResource("namespaces")
}
func sliceResource() schema.GroupVersionResource {
	return discoveryv1.SchemeGroupVersion.WithResource("endpointslices")
}

func (c *Cluster) request(verb string, resource schema.GroupVersionResource, namespace string) *rest.Request {
	root := "/apis/" + resource.Group
	if resource.Group == "" {
		root = "/api"
	}
	return c.api.Verb(verb).AbsPath(root, resource.Version).Namespace(namespace).Resource(resource.Resource)
}

// get reads one object into a type that the client knows.
func (c *Cluster) get(ctx context.Context, resource schema.GroupVersionResource, namespace, name string, into runtime.Object) error {
	err := c.request(http.MethodGet, resource, namespace).Name(name).Do(ctx).Into(into)
	return c.failed(ctx, err, apiAction{"get", resource.GroupResource(), "", namespace, name})
}

// getJSON reads one object of any type.
func (c *Cluster) getJSON(ctx context.Context, resource schema.GroupVersionResource, namespace, name string, into any) error {
	data, err := c.request(http.MethodGet, resource, namespace).Name(name).SetHeader("Accept", runtime.ContentTypeJSON).Do(ctx).Raw()
	if err != nil {
		return c.failed(ctx, err, apiAction{"get", resource.GroupResource(), "", namespace, name})
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("get %s %s: %w", resource.Resource, name, err)
	}
	return nil
}

// list reads objects into a list type that the client knows.
func (c *Cluster) list(ctx context.Context, resource schema.GroupVersionResource, namespace string, options metav1.ListOptions, into runtime.Object) error {
	err := c.request(http.MethodGet, resource, namespace).VersionedParams(&options, c.params).Do(ctx).Into(into)
	return c.failed(ctx, err, apiAction{"list", resource.GroupResource(), "", namespace, ""})
}

// portForwardURL is where tunnels to a pod begin.
func (c *Cluster) portForwardURL(namespace, pod string) *url.URL {
	return c.request(http.MethodPost, podResource(), namespace).Name(pod).SubResource("portforward").URL()
}
