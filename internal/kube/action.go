package kube

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"porthole.dev/porthole/internal/portforward"
	"porthole.dev/porthole/internal/tunnel"
)

// apiAction is what a request to the API server does, as RBAC names it.
type apiAction struct {
	verb        string
	resource    schema.GroupVersionResource
	subresource string // or ""
	namespace   string // "" for the whole cluster
	name        string // of the object, "" for all
}

// object is the resource as `kubectl create role` takes it.
func (a apiAction) object() string {
	if a.subresource == "" {
		return a.resource.GroupResource().String()
	}
	return a.resource.GroupResource().String() + "/" + a.subresource
}

// portForwardTo is the opening of a tunnel to a pod.
func portForwardTo(namespace, pod string) apiAction {
	return apiAction{"create", podResource(), "portforward", namespace, pod}
}

// The resources that need no discovery.
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

// request begins the request for an action. Lists and watches take options besides.
func (c *Cluster) request(a apiAction) *rest.Request {
	root, method := "/apis/"+a.resource.Group, http.MethodGet
	if a.resource.Group == "" {
		root = "/api"
	}
	switch a.verb {
	case "create":
		method = http.MethodPost
	case "patch":
		method = http.MethodPatch
	case "delete":
		method = http.MethodDelete
	}
	request := c.api.Verb(method).AbsPath(root, a.resource.Version).Resource(a.resource.Resource)
	if a.namespace != "" {
		request.Namespace(a.namespace)
	}
	if a.verb != "list" && a.verb != "watch" && a.name != "" {
		request.Name(a.name).SubResource(a.subresource)
	}
	return request
}

// get reads one object: into a runtime.Object of a type that the client knows, or
// from JSON into anything else.
func (c *Cluster) get(ctx context.Context, resource schema.GroupVersionResource, namespace, name string, into any) error {
	a := apiAction{"get", resource, "", namespace, name}
	request := c.request(a)
	if object, ok := into.(runtime.Object); ok {
		return c.requestError(ctx, request.Do(ctx).Into(object), a)
	}
	data, err := request.SetHeader("Accept", runtime.ContentTypeJSON).Do(ctx).Raw()
	if err != nil {
		return c.requestError(ctx, err, a)
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("get %s %s: %w", resource.Resource, name, err)
	}
	return nil
}

// list reads objects into a list type that the client knows.
func (c *Cluster) list(ctx context.Context, resource schema.GroupVersionResource, namespace string, options metav1.ListOptions, into runtime.Object) error {
	a := apiAction{"list", resource, "", namespace, ""}
	return c.requestError(ctx, c.request(a).VersionedParams(&options, c.params).Do(ctx).Into(into), a)
}

// refusal is the HTTP status that the API server, or a proxy before it, answered the
// opening of a tunnel with; 0 if err is something else.
func refusal(err error) int {
	var status *portforward.StatusError
	if errors.As(err, &status) {
		return status.Code
	}
	return 0
}

// requestError turns the error of an action, of client-go or of package portforward,
// into this package's. Other answers of the server stay as they are, wrapped in a text
// that says what failed.
func (c *Cluster) requestError(ctx context.Context, err error, a apiAction) error {
	var status apierrors.APIStatus
	switch {
	case err == nil:
		return nil
	case apierrors.IsForbidden(err) || refusal(err) == http.StatusForbidden:
		return c.forbidden(ctx, a)
	case errors.As(err, &status) && !apierrors.IsUnauthorized(err):
		return fmt.Errorf("%s %s: %w", a.verb, a.object(), err)
	}
	return c.serverError(err)
}

// forbidden is the error for what the user may not do. A user who may not impersonate
// may not even ask who they are, and the server's answer does not tell the two apart.
func (c *Cluster) forbidden(ctx context.Context, a apiAction) error {
	user := c.user.get(struct{}{}, func() (time.Duration, string) {
		name := c.askUserName(ctx)
		if ctx.Err() != nil {
			return 0, name
		}
		return userTime, name
	})
	if user == "" && c.impersonated != "" {
		return &ForbiddenError{Verb: "impersonate", Resource: "users", Name: c.impersonated}
	}
	return &ForbiddenError{Verb: a.verb, Resource: a.object(), Namespace: a.namespace, Name: a.name, User: user}
}

// userTime is for how long the user's name counts: who logs in again may be another.
const userTime = 10 * time.Second

// askUserName asks whom the server takes the user for. Servers before 1.28 do not
// tell, which is "".
func (c *Cluster) askUserName(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var review struct {
		Status struct{ UserInfo struct{ Username string } }
	}
	data, err := c.api.Verb(http.MethodPost).AbsPath("/apis/authentication.k8s.io/v1/selfsubjectreviews").
		SetHeader("Accept", runtime.ContentTypeJSON).SetHeader("Content-Type", runtime.ContentTypeJSON).
		Body([]byte(`{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}`)).Do(ctx).Raw()
	if err != nil || json.Unmarshal(data, &review) != nil {
		return ""
	}
	return review.Status.UserInfo.Username
}

// serverError is the error that there is no answer from the server, or only the one
// that it does not accept the credentials. It returns other errors of tunnels as they
// are, and asks the server nothing.
func (c *Cluster) serverError(err error) error {
	unauthorized := apierrors.IsUnauthorized(err) || refusal(err) == http.StatusUnauthorized
	if errors.Is(err, context.Canceled) || errors.Is(err, tunnel.ErrTunnel) || refusal(err) != 0 && !unauthorized {
		return err
	}
	e := &ServerError{Server: c.Server, Kind: ErrUnreachable, Err: err}
	var request *url.Error
	if errors.As(err, &request) {
		e.Err = request.Err // without the URL, of which the server is enough
	}
	switch {
	case unauthorized:
		e.Kind = ErrUnauthorized
	case isCertificate(e.Err):
		e.Kind = ErrCertificate
	case c.usesPlugin && !isNetwork(e.Err):
		e.Kind = ErrCredentials // the text is client-go's, which has no type for errors of plugins
		if c.plugin != nil {
			if _, err := exec.LookPath(c.plugin.Command); err != nil {
				e.Kind, e.Advice = ErrNoPlugin, c.plugin.InstallHint
			}
		}
	}
	return e
}

func isCertificate(err error) bool {
	var verification *tls.CertificateVerificationError
	var authority x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	return errors.As(err, &verification) || errors.As(err, &authority) || errors.As(err, &host) || errors.As(err, &invalid)
}

func isNetwork(err error) bool {
	var network net.Error
	var errno syscall.Errno
	var alert tls.AlertError
	var record tls.RecordHeaderError
	return errors.As(err, &network) || errors.As(err, &errno) || errors.As(err, &alert) || errors.As(err, &record) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed)
}
