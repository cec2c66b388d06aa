package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"porthole.dev/porthole/internal/kube"
	"porthole.dev/porthole/internal/portforward"
	"porthole.dev/porthole/internal/ssh"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/tunnel"
)

// sandbox is a runtime's number of a pod.
const sandbox = "5c29b8104ae4e81ab23b9b5be3f551b9769ce3f01c9807c957b34db674d2e30a"

// What stock nodes say of a port that they cannot reach, as they say it, and what is made of it.
func TestRefusals(t *testing.T) {
	const forwarding = "error forwarding port 8080 to pod " + sandbox + ", uid : "
	for name, test := range map[string]struct {
		text, want, hint string
		reason           tunnel.Reason
	}{
		"containerd, both families": {
			text: forwarding + `failed to execute portforward in network namespace "/var/run/netns/cni-1": failed to connect to localhost:8080 inside namespace "` +
				sandbox + `", IPv4: dial tcp4 127.0.0.1:8080: connect: connection refused IPv6 dial tcp6 [::1]:8080: connect: connection refused `,
			want: "error forwarding port 8080: connection refused", hint: "127.0.0.1 or ::1 there;",
		},
		"socat, one family": {
			text: forwarding + "exit status 1: 2026/11/26 04:00:00 socat[123] E connect(5, AF=2 127.0.0.1:8080, 16): Connection refused",
			want: "error forwarding port 8080: connection refused", hint: "does not say whether it tried ::1",
		},
		"porthole.v1": {
			text: forwarding + "dial tcp 127.0.0.1:8080: connect: connection refused", reason: tunnel.ReasonRefused,
			want: "error forwarding port 8080: connection refused", hint: "127.0.0.1 or ::1 there;",
		},
		"no socat": {
			text: forwarding + "unable to do port forwarding: socat not found.",
			want: "error forwarding port 8080: unable to do port forwarding: socat not found.", hint: "missing on the pod's node, and not here",
		},
		"another number": {
			text: forwarding + "no sandbox " + sandbox,
			want: "error forwarding port 8080: no sandbox 5c29b8104ae4...",
		},
	} {
		t.Run(name, func(t *testing.T) {
			refused := portforward.StockError(8080, test.text)
			if test.reason != "" {
				refused = &tunnel.PortError{To: target.TCPPort(8080), Text: test.text, Reason: test.reason}
			}
			err := fmt.Errorf("forward: %w", refused)
			short, _, _ := strings.Cut(describe(err, false), " (hint")
			if short != "forward: "+test.want {
				t.Errorf("got  %s\nwant forward: %s", short, test.want)
			}
			if h := hint(err); !strings.Contains(h, test.hint) || (h == "") != (test.hint == "") {
				t.Errorf("hint: %s, want %q", h, test.hint)
			}
			if full := describe(err, true); !strings.Contains(full, oneLine(test.text)) {
				t.Errorf("in full: %s", full)
			}
		})
	}
}

// A hint about a cause goes by what is known of it.
func TestHintsKnowTheCause(t *testing.T) {
	certificate := func(err error) error {
		return &kube.ServerError{Server: "https://x", Kind: kube.ErrCertificate, Err: &tls.CertificateVerificationError{Err: err}}
	}
	listen := func(port int, err error) error {
		return &net.OpError{Op: "listen", Net: "tcp", Addr: &net.TCPAddr{Port: port}, Err: err}
	}
	box := target.Host{Name: "box", Port: 2222}
	from := func(reason tunnel.Reason, to target.Address) error { return &tunnel.PortError{To: to, Reason: reason} }
	unix := target.Address{Network: target.Unix, Path: "/run/x.sock"}
	db := target.Address{Host: "db", Port: 5432}
	dial := func(ip string, err error) error {
		return &net.OpError{Op: "dial", Net: "tcp", Addr: &net.TCPAddr{IP: net.ParseIP(ip)}, Err: err}
	}
	for _, test := range []struct {
		err  error
		want string // "" for no hint
	}{
		{&ssh.HostError{Host: box, Err: from(tunnel.ReasonDenied, target.Address{})}, `--remote-command "sudo porthole"`},
		{&ssh.HostError{Host: box, Err: from(tunnel.ReasonFailed, target.Address{})}, "`ssh -p 2222 box ps -e`"},
		{&ssh.HostError{Host: box, Err: &exec.Error{Name: "ssh", Err: exec.ErrNotFound}}, "`ssh -V`"},
		{from(tunnel.ReasonRefused, unix), "nobody listens on that socket"},
		{from(tunnel.ReasonDenied, unix), "its --allow-unix"},
		{from(tunnel.ReasonFailed, unix), "the path is one inside the target"},
		{from(tunnel.ReasonRefused, target.Address{Network: target.UDP, Port: 53}), "`ss -lun` inside"},
		{from(tunnel.ReasonRefused, db), "that port of that host"},
		{from(tunnel.ReasonDenied, db), "a node is no relay"},
		{&kube.NodeError{Pod: "web-0", To: db}, "a node is no relay"},
		{&kube.NodeError{Pod: "web-0", To: target.Address{Network: target.UDP, Port: 53}}, "`porthole node`"},
		{from(tunnel.ReasonNoHost, db), "/etc/hosts"},
		{from(tunnel.ReasonNoLookup, db), "/etc/netns/NAME/resolv.conf"},
		{from(tunnel.ReasonUnreachable, db), "`ip route` inside"},
		{from(tunnel.ReasonTimeout, db), "does not answer"},
		{from(tunnel.ReasonFailed, db), ""},
		{&net.DNSError{UnwrapErr: target.ErrNoHost}, "/etc/hosts"},
		{&net.DNSError{UnwrapErr: target.ErrLookup}, "/etc/resolv.conf"},
		{dial("10.0.0.2", syscall.ECONNREFUSED), "that port of that host"},
		{dial("10.0.0.2", syscall.ENETUNREACH), "`ip route` inside"},
		{dial("10.0.0.2", context.DeadlineExceeded), "does not answer"},
		{dial("::1", syscall.ECONNREFUSED), "127.0.0.1 or ::1 there;"},
		{dial("127.0.0.1", syscall.ENETUNREACH), "loopback interface"},
		{certificate(x509.HostnameError{Certificate: &x509.Certificate{}, Host: "x"}), "other names"},
		{certificate(x509.CertificateInvalidError{Reason: x509.Expired}), "`date`"},
		{certificate(x509.UnknownAuthorityError{}), "did not sign it"},
		{certificate(x509.CertificateInvalidError{Reason: x509.NameConstraintsWithoutSANs}), "kubectl config view"},
		{listen(80, syscall.EACCES), "below 1024"},
		{listen(8080, syscall.EACCES), ""},
		{listen(8080, syscall.EADDRINUSE), "ss -ltnp"},
		{&os.PathError{Op: "open", Path: "forwards.yaml", Err: syscall.EACCES}, ""},
		{&net.OpError{Op: "dial", Net: "unix", Err: syscall.EACCES}, ""},
		{&kube.RelayError{Err: &kube.NotReadyError{Pods: []kube.PodStatus{{Reason: "CreateContainerConfigError"}}}}, "runAsUser: 65532"},
		{&kube.RelayError{Err: &kube.NotReadyError{}}, "pull secrets, tolerations"},
		{&kube.PatchError{Of: kube.AgentPatch, Err: errors.New("x")}, "may set env"},
		{&kube.PatchError{Of: kube.RelayPatch, Err: errors.New("x")}, "has metadata"},
		{errors.New("anything"), ""},
	} {
		if h := hint(test.err); !strings.Contains(h, test.want) || (h == "") != (test.want == "") {
			t.Errorf("%v: hint %q, want %q", test.err, h, test.want)
		}
	}
}

// What may be granted, by whom, is a line that a shell takes.
func TestGrant(t *testing.T) {
	for _, test := range []struct {
		err  kube.ForbiddenError
		want string
	}{
		{kube.ForbiddenError{Verb: "get", Resource: "pods", Namespace: "shop", User: "o'neil; id"},
			"`kubectl create role porthole-get-pods --verb=get --resource=pods --namespace=shop` and " +
				"`kubectl create rolebinding porthole-get-pods --role=porthole-get-pods $'--user=o\\'neil; id' --namespace=shop` grant it"},
		{kube.ForbiddenError{Verb: "impersonate", Resource: "users", Name: "eve x"},
			"`kubectl create clusterrole porthole-impersonate-users --verb=impersonate --resource=users '--resource-name=eve x'` and " +
				"`kubectl create clusterrolebinding porthole-impersonate-users --clusterrole=porthole-impersonate-users --user=USER` grant it"},
		{kube.ForbiddenError{Verb: "get", Resource: "/apis", User: "ada"},
			"`kubectl create clusterrole porthole-get-apis --verb=get --non-resource-url=/apis` and " +
				"`kubectl create clusterrolebinding porthole-get-apis --clusterrole=porthole-get-apis --user=ada` grant it"},
	} {
		if got := hint(&test.err); got != test.want {
			t.Errorf("got  %s\nwant %s", got, test.want)
		}
	}
}

func TestOneLine(t *testing.T) {
	for text, want := range map[string]string{
		"a":                          "a",
		"a\nb":                       "a; b",
		"It is gone.\nUse another.":  "It is gone. Use another.",
		"brew install x\n\nor see y": "brew install x; or see y",
		"\n a \r\n\tb\n":             "a; b",
	} {
		if got := oneLine(text); got != want {
			t.Errorf("oneLine(%q) = %q, want %q", text, got, want)
		}
	}
}
