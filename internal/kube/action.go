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
	"sync"
	"syscall"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"porthole.dev/porthole/internal/portforward"
)

// act is what a request does, as RBAC has it.
type apiAction struct {
	verb      string
	resource  schema.GroupResource
	sub       string // resource, or ""
	namespace string
	name      string // or "" for all
}

// on is the resource as `kubectl create role` takes it.
func (a apiAction) on() string {
	if a.sub == "" {
		return a.resource.String()
	}
	return a.resource.String() + "/" + a.sub
}

// failed turns what client-go returns into this package's errors. What the server
// answers otherwise stays as it is, within a text that says what failed.
func (c *Cluster) failed(ctx context.Context, err error, a apiAction) error {
	var status apierrors.APIStatus
	switch {
	case err == nil || errors.Is(err, context.Canceled):
		return err
	case apierrors.IsForbidden(err):
		return c.forbidden(ctx, a)
	case apierrors.IsUnauthorized(err):
		return &ServerError{Server: c.Server, Kind: ErrUnauthorized, Err: err}
	case errors.As(err, &status):
		return fmt.Errorf("%s %s: %w", a.verb, a.on(), err)
	}
	return c.unanswered(err)
}

// forbidden says what is forbidden. One who may not impersonate may not even ask
// who they are, and is told neither from the other by the server's answer.
func (c *Cluster) forbidden(ctx context.Context, a apiAction) error {
	user := c.whoami(ctx)
	if user == "" && c.impersonated != "" {
		return &ForbiddenError{Verb: "impersonate", Resource: "users", Name: c.impersonated}
	}
	return &ForbiddenError{Verb: a.verb, Resource: a.on(), Namespace: a.namespace, Name: a.name, User: user}
}

// whoami remembers whom the server takes the user for: many connections may be
// forbidden at once, and ask.
type whoami struct {
	mu    sync.Mutex
	name  string
	asked time.Time
}

// whoamiTime is how long the answer counts; who logs in again may be another.
const whoamiTime = 10 * time.Second

// whoami is whom the server takes the user for, or "".
func (c *Cluster) whoami(ctx context.Context) string {
	c.user.mu.Lock()
	defer c.user.mu.Unlock()
	if c.user.asked.IsZero() || time.Since(c.user.asked) > whoamiTime {
		name := c.askWhoami(ctx)
		if ctx.Err() != nil {
			return name
		}
		c.user.name, c.user.asked = name, time.Now()
	}
	return c.user.name
}

func (c *Cluster) askWhoami(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var review struct {
		Status struct{ UserInfo struct{ Username string } }
	}
	data, err := c.api.Verb(http.MethodPost).AbsPath("/apis/authentication.k8s.io/v1/selfsubjectreviews").
		SetHeader("Accept", runtime.ContentTypeJSON).SetHeader("Content-Type", runtime.ContentTypeJSON).
		Body([]byte(`{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}`)).Do(ctx).Raw()
	if err != nil || json.Unmarshal(data, &review) != nil {
		return "" // servers before 1.28 do not tell
	}
	return review.Status.UserInfo.Username
}

// unanswered says why there is no answer from the server.
func (c *Cluster) unanswered(err error) error {
	kind, advice := ErrUnreachable, ""
	var request *url.Error
	if errors.As(err, &request) {
		err = request.Err // without the URL, of which the server is enough
	}
	switch {
	case isCertificate(err):
		kind = ErrCertificate
	case c.plugin && !isNetwork(err):
		kind = ErrCredentials // client-go's own text: it has no type for what plugins do
		if c.exec != nil && !installed(c.exec.Command) {
			kind, advice = ErrNoPlugin, c.exec.InstallHint
		}
	}
	return &ServerError{Server: c.Server, Kind: kind, Err: err, Advice: advice}
}

// installed tells whether a plugin can be run, as client-go looks for it.
func installed(command string) bool {
	_, err := exec.LookPath(command)
	return err == nil
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

// tunnelFailed turns what package portforward returns about a tunnel into this
// package's errors.
func (c *Cluster) tunnelFailed(ctx context.Context, err error, namespace, pod string) error {
	var status *portforward.StatusError
	if errors.As(err, &status) && status.Code == http.StatusForbidden {
		return c.forbidden(ctx, apiAction{"create", podResource().GroupResource(), "portforward", namespace, pod})
	}
	return c.openingFailed(err)
}

// openingFailed is tunnelFailed without a question to the server.
func (c *Cluster) openingFailed(err error) error {
	var status *portforward.StatusError
	switch {
	case errors.As(err, &status) && status.Code == http.StatusUnauthorized:
		return &ServerError{Server: c.Server, Kind: ErrUnauthorized, Err: err}
	case status != nil || errors.Is(err, context.Canceled) || errors.Is(err, portforward.ErrTunnel) || errors.Is(err, net.ErrClosed):
		return err
	}
	return c.unanswered(err)
}
