package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
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
	// requestLimit is how long a request may take that nobody waits for.
	requestLimit = 10 * time.Second
	// checkLimit is how long the API server may take to show that a connection lives.
	checkLimit = 2 * time.Second
)

// Cluster is the way to one cluster's API server, as one user. Its methods are
// safe to call at the same time, and any number of Routes may share it.
type Cluster struct {
	Server    string // URL of the API server
	Namespace string // of targets

	api     *rest.RESTClient
	types   discovery.CachedDiscoveryInterfaceWithContext // asked only if needed
	mapper  *restmapper.DeferredDiscoveryRESTMapper       // of types
	conns   *connrotation.Dialer                          // all connections of api
	tunnels http.RoundTripper                             // for portforward.Client
	ways    portforward.Ways                              // by which tunnels get through
	limit   time.Duration                                 // --request-timeout, or 0
	params  runtime.ParameterCodec

	usesPlugin   bool            // for credentials
	plugin       *api.ExecConfig // if it is a program, else nil
	impersonated string          // the user that requests are made as, or ""

	retries  *RetryLimiter
	recovery *recovery               // as the transport of tunnels sees it
	checking chan struct{}           // holds one while check runs
	user     cache[struct{}, string] // whom the server takes the user for, or ""
}

// Open reads the kubeconfig; it does not ask the server anything yet. Close the
// Cluster in the end. Errors: ErrNoConfig, *ContextError, *EntryError.
func Open(c *Config) (*Cluster, error) {
	config, namespace, err := c.load()
	if err != nil {
		return nil, err
	}
	k := &Cluster{Server: config.Host, Namespace: namespace, conns: connrotation.NewDialer(dialServer)}
	k.retries, k.recovery, k.checking = cmp.Or(c.Retries, new(RetryLimiter)), new(recovery), make(chan struct{}, 1)
	k.limit, config.Timeout = config.Timeout, 0 // rest.Config's would end watches too
	k.usesPlugin, k.plugin = config.ExecProvider != nil || config.AuthProvider != nil, config.ExecProvider
	k.impersonated = config.Impersonate.UserName
	config.WarningHandler = warnings(c.Warn)
	config.QPS = -1 // no limit: this package makes few requests, and connections wait for them
	if err := k.connectAPI(config); err != nil {
		return nil, fmt.Errorf("use kubeconfig: %w", err)
	}
	if err := k.connectTunnels(config); err != nil {
		return nil, fmt.Errorf("use kubeconfig: %w", err)
	}
	return k, nil
}

// warnings passes on what servers warn of (RFC 7234, section 5.5, with the code 299).
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
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, discoveryv1.AddToScheme, batchv1.AddToScheme} {
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

// connectTunnels makes the transport of tunnels. The upgrade takes an HTTP/1.1
// connection over from it; everything else, from proxies to credentials that are
// renewed, client-go does.
func (c *Cluster) connectTunnels(config *rest.Config) error {
	config = rest.CopyConfig(config)
	config.Dial = dialBurst
	config.NextProtos = []string{"http/1.1"}
	transport, err := rest.TransportFor(config)
	c.tunnels = recoveryTransport{transport, c.recovery}
	return err
}

// Close closes the connections that are idle. Close the Routes first.
func (c *Cluster) Close() {
	utilnet.CloseIdleConnectionsFor(c.tunnels)
	c.conns.CloseAll()
}

// check closes all connections but the tunnels' if a request on them has no answer in
// time, so that nothing waits for one whose other end is gone. One check runs at a time.
func (c *Cluster) check(ctx context.Context) {
	select {
	case c.checking <- struct{}{}:
		defer func() { <-c.checking }()
	default:
		return
	}
	ctx, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	err := c.api.Get().AbsPath("/version").Do(ctx).Error()
	var status apierrors.APIStatus
	if err != nil && !errors.As(err, &status) {
		c.conns.CloseAll()
	}
}

// background bounds a request that nobody waits for.
func (c *Cluster) background(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, cmp.Or(c.limit, requestLimit))
}

// foreground bounds a request that a person waits for only if they asked for a limit:
// they can interrupt it, and may have to log in with a plugin before it is sent.
func (c *Cluster) foreground(ctx context.Context) (context.Context, context.CancelFunc) {
	if c.limit == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, c.limit)
}
