package kube

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"porthole.dev/porthole/internal/target"
)

// The errors of this package, for errors.Is. The types below add details, and each
// is one of these too.
var (
	ErrNoConfig        = errors.New("no kubeconfig")
	ErrNoContext       = errors.New("no such context in the kubeconfig")                 // *ContextError
	ErrEntry           = errors.New("an entry of the kubeconfig cannot be used")         // *EntryError
	ErrUnreachable     = errors.New("cannot be reached")                                 // *ServerError
	ErrCertificate     = errors.New("certificate is not to be trusted")                  // *ServerError
	ErrCredentials     = errors.New("no credentials to be had")                          // *ServerError
	ErrNoPlugin        = fmt.Errorf("%w: their plugin is not installed", ErrCredentials) // *ServerError
	ErrUnauthorized    = errors.New("does not accept the credentials")                   // *ServerError
	ErrForbidden       = errors.New("forbidden")                                         // *ForbiddenError
	ErrNotFound        = errors.New("not found")                                         // *NotFoundError
	ErrNoNamespace     = errors.New("no such namespace")                                 // *NotFoundError
	ErrUnknownResource = errors.New("the server has no such type of resource")           // *ResourceError
	ErrNoPods          = errors.New("has no pods of its own")                            // *ResourceError
	ErrOnePod          = errors.New("is one pod")                                        // *ResourceError
	ErrNoSelector      = errors.New("the service has no selector, and leads to no pods") // *SelectorError
	ErrNotReady        = errors.New("no pod is ready")                                   // *NotReadyError
	ErrNoPort          = errors.New("no such port")                                      // *PortError
	ErrProtocol        = errors.New("port of another protocol")                          // *PortError
	ErrWaited          = errors.New("waited in vain")                                    // *WaitError
	ErrNoContainer     = errors.New("no such container")                                 // *ContainerError
	// ErrAgentRefuses means that an agent does not know the user's key. These and the following
	// are *AgentError.
	ErrAgentRefuses = errors.New("it does not know the key of this user")
	ErrNoAgent      = errors.New("this pod can have none")
	ErrNoEphemeral  = errors.New("the cluster has no ephemeral containers")
	ErrNotStarted   = errors.New("it does not start")
	ErrUserUnknown  = errors.New("neither the pod's specification nor its status says which user it runs as")
	// ErrLostKey means that the user's key is a new one; *LostKeyError.
	ErrLostKey = errors.New("the key is new")
)

// ContextError says that the kubeconfig has no such context.
type ContextError struct {
	Context   string   // "" when none is current
	Available []string // the contexts that it has, sorted
}

func (e *ContextError) Error() string {
	if e.Context == "" {
		return "the kubeconfig has no current context"
	}
	return fmt.Sprintf("the kubeconfig has no context %q", e.Context)
}

func (e *ContextError) Unwrap() error { return ErrNoContext }

// ServerError says that there is no answer from the API server, or only the one that
// it does not accept the user's credentials.
type ServerError struct {
	Server string // its URL
	Kind   error  // ErrUnreachable, ErrCertificate, ErrCredentials, ErrNoPlugin or ErrUnauthorized
	Err    error
	Advice string // of ErrNoPlugin: how the kubeconfig says to install it, maybe in several lines; or ""
}

// Error has one line; a plugin's advice may be many more.
func (e *ServerError) Error() string {
	first, _, _ := strings.Cut(e.Err.Error(), "\n")
	return fmt.Sprintf("API server %s: %v: %s", e.Server, e.Kind, first)
}

func (e *ServerError) Unwrap() []error { return []error{e.Kind, e.Err} }

// ForbiddenError says what the user may not do. Its fields are as
// `kubectl create role --verb=VERB --resource=RESOURCE --namespace=NAMESPACE` takes them.
type ForbiddenError struct {
	Verb      string // such as get
	Resource  string // such as pods/portforward or endpointslices.discovery.k8s.io
	Namespace string // "" for the whole cluster, where it takes a cluster role
	Name      string // of the object, "" for all
	User      string // whom the server takes the user for, "" if it does not tell
}

func (e *ForbiddenError) Error() string {
	who := "you"
	if e.User != "" {
		who = fmt.Sprintf("user %q", e.User)
	}
	text := fmt.Sprintf("%s may not %s %s", who, e.Verb, e.Resource)
	if e.Namespace != "" {
		return fmt.Sprintf("%s in namespace %s: %v", text, e.Namespace, ErrForbidden)
	}
	return fmt.Sprintf("%s: %v", text, ErrForbidden)
}

func (e *ForbiddenError) Unwrap() error { return ErrForbidden }

// NotFoundError says that the target does not exist.
type NotFoundError struct {
	Target    string // such as pod/kuard
	Namespace string
	Similar   []string // targets that exist and may have been meant
	// NoNamespace says that there is no such namespace; Similar are other namespaces then.
	NoNamespace bool
}

func (e *NotFoundError) Error() string {
	text := fmt.Sprintf("no %s in namespace %s", e.Target, e.Namespace)
	if e.NoNamespace {
		text = fmt.Sprintf("there is no namespace %s", e.Namespace)
	}
	if len(e.Similar) > 0 {
		text += ", but " + strings.Join(e.Similar, ", ")
	}
	return text
}

// Is says which of this package's errors it is.
func (e *NotFoundError) Is(target error) bool {
	return target == ErrNotFound || e.NoNamespace && target == ErrNoNamespace
}

// ResourceError says that a type of resource cannot be a target.
type ResourceError struct {
	Resource string // as it was named
	Kind     error  // ErrUnknownResource, ErrNoPods or ErrOnePod
}

func (e *ResourceError) Error() string {
	if errors.Is(e.Kind, ErrNoPods) || errors.Is(e.Kind, ErrOnePod) {
		return e.Resource + " " + e.Kind.Error()
	}
	return fmt.Sprintf("%s: %v", e.Resource, e.Kind)
}

func (e *ResourceError) Unwrap() error { return e.Kind }

// SelectorError says that a service does not lead to pods.
type SelectorError struct {
	Service      string // such as svc/web
	ExternalName string // where it leads by its own account, or ""
}

func (e *SelectorError) Error() string {
	if e.ExternalName != "" {
		return fmt.Sprintf("%s leads to %s, and not to pods", e.Service, e.ExternalName)
	}
	return fmt.Sprintf("%s: %v", e.Service, ErrNoSelector)
}

func (e *SelectorError) Unwrap() error { return ErrNoSelector }

// NotReadyError says why no pod takes connections.
type NotReadyError struct {
	Target    string // such as svc/web
	Namespace string
	Pods      []PodStatus // those that are not ready; empty if there are no pods
	Reason    string      // why there are none, if that is known
}

func (e *NotReadyError) Error() string {
	if len(e.Pods) == 0 && e.Reason == "" {
		return e.Target + " has no pods"
	}
	if len(e.Pods) == 0 {
		return e.Target + " " + e.Reason
	}
	const most = 3
	var each []string
	for _, p := range e.Pods[:min(most, len(e.Pods))] {
		each = append(each, p.String())
	}
	if more := len(e.Pods) - most; more > 0 {
		each = append(each, fmt.Sprintf("and %d more", more))
	}
	return e.Target + " has no pod that is ready: " + strings.Join(each, "; ")
}

func (e *NotReadyError) Unwrap() error { return ErrNotReady }

// NodeError says that a port needs porthole on the pod's node, which is not there. It is a
// target.ErrUnsupported.
type NodeError struct {
	Pod string
	To  target.Address
}

func (e *NodeError) Error() string {
	if e.To.Host != "" {
		return fmt.Sprintf("%s: neither Kubernetes nor its nodes forward to other hosts than the pod %s", e.To, e.Pod)
	}
	if _, err := e.To.TCPOnly(); err == nil {
		return fmt.Sprintf("%s of pod %s: its node does not run porthole", e.To, e.Pod)
	}
	return fmt.Sprintf("%s of pod %s: its node does not run porthole, and Kubernetes itself forwards only TCP ports", e.To, e.Pod)
}

func (e *NodeError) Unwrap() error { return target.ErrUnsupported }

// AgentError says why a pod has no agent, or why that cannot be reached.
type AgentError struct {
	Pod       string
	Container string // the ephemeral one; "" if there is none
	Err       error
	Final     bool // another attempt would fail as well
}

func (e *AgentError) Error() string {
	if e.Container == "" {
		return fmt.Sprintf("agent in pod %s: %v", e.Pod, e.Err)
	}
	return fmt.Sprintf("agent in pod %s, container %s: %v", e.Pod, e.Container, e.Err)
}

func (e *AgentError) Unwrap() error { return e.Err }

// ContainerError says that a pod has no such container, or which of several it might be.
type ContainerError struct {
	Pod       string
	Container string // as it was named, or "" if it was not
	Available []string
}

func (e *ContainerError) Error() string {
	if e.Container == "" {
		return fmt.Sprintf("pod %s has several containers: %s", e.Pod, strings.Join(e.Available, ", "))
	}
	return fmt.Sprintf("pod %s has no container %s, but %s", e.Pod, e.Container, strings.Join(e.Available, ", "))
}

func (e *ContainerError) Unwrap() error { return ErrNoContainer }

// LostKeyError says that a pod has an agent that knows another key, and the user's is new.
type LostKeyError struct {
	Pod       string
	Container string // the agent's
	File      string // of the user's key
}

func (e *LostKeyError) Error() string {
	return fmt.Sprintf("pod %s has another agent already, container %s, which knows another key: that in %s is new", e.Pod, e.Container, e.File)
}

func (e *LostKeyError) Unwrap() error { return ErrLostKey }

// PortError says that the target has no such port, or one of another protocol.
type PortError struct {
	Target    string   // such as svc/web
	Port      string   // number or name as given
	Protocol  string   // that the port has, if it is not Wanted; else ""
	Wanted    string   // TCP or UDP; set where Protocol is
	Available []string // the ports of the wanted protocol that it has, such as "http (8080)"
	Pods      bool     // the target may have it, but none of its pods has
}

func (e *PortError) Error() string {
	if e.Protocol != "" {
		return fmt.Sprintf("port %s of %s is %s, not %s", e.Port, e.Target, e.Protocol, e.Wanted)
	}
	switch {
	case e.Pods && len(e.Available) == 0:
		return fmt.Sprintf("no pod of %s has port %s, nor names any", e.Target, e.Port)
	case e.Pods:
		return fmt.Sprintf("no pod of %s has port %s, but %s", e.Target, e.Port, strings.Join(e.Available, ", "))
	case len(e.Available) == 0:
		return fmt.Sprintf("%s has no port %s, and names none", e.Target, e.Port)
	}
	return fmt.Sprintf("%s has no port %s, but %s", e.Target, e.Port, strings.Join(e.Available, ", "))
}

// Is takes the place of Unwrap, since the kind of error depends on the protocol.
func (e *PortError) Is(target error) bool {
	if e.Protocol != "" {
		return target == ErrProtocol
	}
	return target == ErrNoPort
}

// WaitError says that a connection waited for a pod as long as it may.
type WaitError struct {
	Waited time.Duration
	Err    error // why no pod could be reached
}

func (e *WaitError) Error() string { return fmt.Sprintf("waited %v in vain: %v", e.Waited, e.Err) }

func (e *WaitError) Unwrap() []error { return []error{ErrWaited, e.Err} }
