package container

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/docker/go-connections/sockets"
	"github.com/docker/go-connections/tlsconfig"
	"github.com/moby/moby/client"

	"porthole.dev/porthole/internal/ssh"
	"porthole.dev/porthole/internal/target"
)

// engineHost is where an engine with Docker's API listens, as its settings say.
type engineHost struct {
	url      string      // unix://PATH, tcp://HOST:PORT, ssh://[USER@]HOST[:PORT][/PATH] or npipe://PATH
	tls      *tls.Config // of tcp; nil for none
	identity string      // of ssh: the file of a private key; "" leaves that to ssh
}

// Contexts returns the names that --engine-context takes for an engine, by its settings alone: docker's contexts, or podman's connections.
func Contexts(scheme target.Scheme) []string {
	if scheme == target.Docker {
		return dockerContexts()
	}
	connections, _, _ := podmanConnections()
	return slices.Sorted(maps.Keys(connections))
}

// bySSH means that a program at the other end copies its standard streams to the engine's socket.
func (h engineHost) bySSH() bool { return strings.HasPrefix(h.url, "ssh://") }

// address is the engine's for the API's client, which does not know ssh.
func (h engineHost) address() string {
	if h.bySSH() {
		return "http://" + client.DummyHost
	}
	return h.url
}

// transport is the way to the engine.
func (h engineHost) transport(scheme target.Scheme) (engineTransport, error) {
	t := engineTransport{&http.Transport{TLSClientConfig: h.tls, MaxResponseHeaderBytes: maxHeader}, "http://" + client.DummyHost, ""}
	to, err := client.ParseHostURL(h.address())
	if err == nil {
		err = sockets.ConfigureTransport(t.Transport, to.Scheme, to.Host)
	}
	switch {
	case err != nil:
		return t, fmt.Errorf("%w: %s", ErrContextUnread, strings.ReplaceAll(err.Error(), h.url, withoutPassword(h.url)))
	case h.bySSH():
		host, command, err := h.dialStdio(scheme)
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return ssh.Dial(ctx, "ssh", host, h.identity, command)
		}
		return t, err
	case to.Scheme == "unix", to.Scheme == "npipe":
		return t, nil
	}
	t.host = to.Host[strings.LastIndexByte(to.Host, '@')+1:] // without a password
	protocol := "http"
	if h.tls != nil {
		protocol = "https"
	}
	t.base = protocol + "://" + t.host + strings.TrimRight(to.Path, "/")
	return t, nil
}

// dialStdio splits an address of ssh into the host, and the command there: docker's or podman's own, for the socket at
// the address' path if it has one.
func (h engineHost) dialStdio(scheme target.Scheme) (host target.Host, command string, err error) {
	u, err := url.Parse(h.url)
	if err != nil {
		err = errors.Unwrap(err) // without the address, which may have a password
		return target.Host{}, "", fmt.Errorf("%w: %s: %w", ErrContextUnread, withoutPassword(h.url), err)
	}
	path := strings.TrimSuffix(u.Path, "/")
	u.Path, u.RawPath = "", ""
	if host, err = target.ParseHost(u.String()); err != nil {
		return target.Host{}, "", fmt.Errorf("%w: %w", ErrContextUnread, err)
	}
	if strings.Contains(path, "'") || u.RawQuery != "" {
		return target.Host{}, "", fmt.Errorf("%w: the path of %s", ErrContextUnread, withoutPassword(h.url))
	}
	command = "docker system dial-stdio"
	switch {
	case scheme == target.Podman && path != "":
		command = "podman --remote --url 'unix://" + path + "' system dial-stdio"
	case scheme == target.Podman:
		command = "podman system dial-stdio"
	case path != "":
		command = "docker --host 'unix://" + path + "' system dial-stdio"
	}
	return host, command, nil
}

// withoutPassword is an engine's address for messages, as others may read them. It need not be a valid one.
func withoutPassword(address string) string {
	scheme := ""
	if i := strings.Index(address, "://"); i >= 0 {
		scheme = address[:i+3]
	}
	rest := address[len(scheme):]
	at := strings.LastIndexByte(rest, '@')
	user, _, ok := strings.Cut(rest[:max(at, 0)], ":")
	if !ok {
		return address
	}
	return scheme + user + ":..." + rest[at:]
}

// tlsInFolder reads what a connection by TLS takes: those of ca.pem, cert.pem and key.pem that a folder has.
func tlsInFolder(dir string, skipVerify bool) (*tls.Config, error) {
	file := func(name string) string {
		if path := filepath.Join(dir, name); exists(path) {
			return path
		}
		return ""
	}
	config, err := tlsconfig.Client(tlsconfig.Options{
		CAFile: file("ca.pem"), CertFile: file("cert.pem"), KeyFile: file("key.pem"),
		InsecureSkipVerify: skipVerify, ExclusiveRootPools: true, MinVersion: tls.VersionTLS12,
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrContextUnread, err)
	}
	return config, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
