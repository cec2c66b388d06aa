package container

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/moby/moby/client"

	"porthole.dev/porthole/internal/target"
)

// settings makes a home without any settings of engines, and returns it.
func settings(t *testing.T) (home string) {
	t.Helper()
	home = t.TempDir()
	for _, name := range []string{"DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_TLS", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "XDG_CONFIG_HOME",
		"CONTAINER_HOST", "CONTAINER_CONNECTION", "CONTAINER_SSHKEY", "PODMAN_CONNECTIONS_CONF"} {
		t.Setenv(name, "")
	}
	t.Setenv("HOME", home)
	t.Setenv("XDG_RUNTIME_DIR", home)
	putFile(t, filepath.Join(home, "containers.conf"), "")
	t.Setenv("CONTAINERS_CONF", filepath.Join(home, "containers.conf"))
	return home
}

func putFile(t *testing.T, path, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
}

// contextFile is where docker keeps something of a context.
func contextFile(home, kind, name, file string) string {
	sum := sha256.Sum256([]byte(name))
	return filepath.Join(home, ".docker/contexts", kind, hex.EncodeToString(sum[:]), file)
}

// Paths of the API follow an engine's address, whether that ends in a slash or not.
func TestEngineBase(t *testing.T) {
	for url, want := range map[string]string{
		"unix:///run/docker.sock": "http://" + client.DummyHost, "ssh://me@box": "http://" + client.DummyHost,
		"tcp://box:2375": "http://box:2375", "tcp://box:2375/": "http://box:2375", "tcp://box:2375//": "http://box:2375", "tcp://me:secret@box:2375/docker/": "http://box:2375/docker",
	} {
		if got, err := (engineHost{url: url}).transport(target.Docker); err != nil || got.base != want {
			t.Errorf("%s: %q, %v, want %q", url, got.base, err, want)
		}
	}
	if got, err := (engineHost{url: "tcp://box:2376", tls: &tls.Config{}}).transport(target.Docker); err != nil || got.base != "https://box:2376" {
		t.Errorf("with TLS: %q, %v", got.base, err)
	}
}

// Docker's engine is where docker itself finds it: a context that is named counts most, then DOCKER_HOST, DOCKER_CONTEXT and the
// current context.
func TestDockerHost(t *testing.T) {
	home := settings(t)
	want := func(name, url string) {
		t.Helper()
		if h, err := dockerHost(name); err != nil || h.url != url || h.tls != nil {
			t.Errorf("context %q: %+v, %v, want %s", name, h, err, url)
		}
	}
	if runtime.GOOS != "windows" {
		want("", "unix:///var/run/docker.sock")
	}
	putFile(t, contextFile(home, "meta", "colima", "meta.json"), `{"Name":"colima","Endpoints":{"docker":{"Host":"unix:///colima.sock"}}}`)
	putFile(t, contextFile(home, "meta", "box", "meta.json"), `{"Name":"box","Endpoints":{"docker":{"Host":"ssh://me@box"}}}`)
	putFile(t, contextFile(home, "meta", "empty", "meta.json"), `{"Name":"empty","Endpoints":{}}`)
	putFile(t, contextFile(home, "meta", "broken", "meta.json"), `{"Name":`)
	putFile(t, filepath.Join(home, ".docker/config.json"), `{"currentContext":"colima"}`)
	want("", "unix:///colima.sock")
	t.Setenv("DOCKER_CONTEXT", "box")
	want("", "ssh://me@box")
	t.Setenv("DOCKER_HOST", "tcp://127.0.0.1:2375")
	want("", "tcp://127.0.0.1:2375")
	want("default", "tcp://127.0.0.1:2375")
	want("colima", "unix:///colima.sock")
	for name, fails := range map[string]error{"nothing": ErrNoContext, "empty": ErrContextUnread, "broken": ErrContextUnread} {
		if h, err := dockerHost(name); !errors.Is(err, fails) {
			t.Errorf("context %s: %+v, %v, want %v", name, h, err, fails)
		}
	}
}

// A server's certificate is checked unless the settings say otherwise, and the files of keys are those of the settings.
func TestDockerTLS(t *testing.T) {
	home := settings(t)
	t.Setenv("DOCKER_HOST", "tcp://127.0.0.1:2376")
	for _, c := range []struct {
		verify, tls string
		uses, skips bool
	}{{"1", "", true, false}, {"", "1", true, true}, {"1", "1", true, false}, {"", "", false, false}} {
		t.Setenv("DOCKER_TLS_VERIFY", c.verify)
		t.Setenv("DOCKER_TLS", c.tls)
		h, err := dockerHost("")
		if err != nil || (h.tls != nil) != c.uses || c.uses && h.tls.InsecureSkipVerify != c.skips {
			t.Errorf("%+v: %+v, %v", c, h, err)
		}
	}
	putFile(t, contextFile(home, "meta", "far", "meta.json"), `{"Endpoints":{"docker":{"Host":"tcp://far:2376","SkipTLSVerify":false}}}`)
	putFile(t, contextFile(home, "tls", "far", "docker/ca.pem"), "no certificate")
	if h, err := dockerHost("far"); !errors.Is(err, ErrContextUnread) {
		t.Errorf("a certificate that is none: %+v, %v", h, err)
	}
}

// Podman's service is where podman-remote finds it, and on Linux at the local sockets before that.
func TestPodmanHost(t *testing.T) {
	home := settings(t)
	want := func(name, url, identity string) {
		t.Helper()
		if h, err := podmanHost(name); err != nil || h.url != url || h.identity != identity {
			t.Errorf("connection %q: %+v, %v, want %s with %q", name, h, err, url, identity)
		}
	}
	putFile(t, filepath.Join(home, "containers.conf"), "[engine]\nactive_service = \"old\"\n[engine.service_destinations.old]\nuri = \"ssh://a@old:22/run/x.sock\"\nidentity = \"/key\"\n")
	want("old", "ssh://a@old:22/run/x.sock", "/key")
	if !exists(rootPodman) {
		want("", "ssh://a@old:22/run/x.sock", "/key")
	}
	putFile(t, filepath.Join(home, ".config/containers/podman-connections.json"),
		`{"Connection":{"Default":"machine","Connections":{"machine":{"URI":"ssh://core@127.0.0.1:5000/p.sock","Identity":"/id","IsMachine":true}}}}`)
	want("machine", "ssh://core@127.0.0.1:5000/p.sock", "/id")
	if !exists(rootPodman) {
		want("", "ssh://core@127.0.0.1:5000/p.sock", "/id")
	}
	want("old", "ssh://a@old:22/run/x.sock", "/key")
	if h, err := podmanHost("nothing"); !errors.Is(err, ErrNoContext) {
		t.Errorf("no such connection: %+v, %v", h, err)
	}
	t.Setenv("CONTAINER_CONNECTION", "old")
	want("", "ssh://a@old:22/run/x.sock", "/key")
	t.Setenv("CONTAINER_HOST", "unix:///p.sock")
	want("", "unix:///p.sock", "")
	putFile(t, filepath.Join(home, "containers.conf"), "engine]")
	if h, err := podmanHost("old"); !errors.Is(err, ErrContextUnread) {
		t.Errorf("settings that are none: %+v, %v", h, err)
	}
}

// What runs on another host is a command without anything that its shell would take for more.
func TestDialStdio(t *testing.T) {
	for _, c := range []struct {
		scheme    target.Scheme
		url, want string
	}{
		{target.Docker, "ssh://box", "docker system dial-stdio"},
		{target.Docker, "ssh://me@box:22/run/d.sock", "docker --host 'unix:///run/d.sock' system dial-stdio"},
		{target.Podman, "ssh://me@box:22/run/p.sock", "podman --remote --url 'unix:///run/p.sock' system dial-stdio"},
		{target.Podman, "ssh://[::1]", "podman system dial-stdio"},
		{target.Docker, "ssh://box/a'b", ""},
		{target.Docker, "ssh://-oProxyCommand=x", ""},
		{target.Docker, "ssh://me:secret@box", ""},
	} {
		_, command, err := engineHost{url: c.url}.dialStdio(c.scheme)
		if command != c.want || (err == nil) != (c.want != "") || err != nil && !errors.Is(err, ErrContextUnread) {
			t.Errorf("%s: %q, %v, want %q", c.url, command, err, c.want)
		}
	}
}

// An engine whose API is older than what is asked for is told apart.
func TestTooOld(t *testing.T) {
	settings(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Api-Version", "1.39") }))
	defer server.Close()
	t.Setenv("DOCKER_HOST", "tcp://"+server.Listener.Addr().String())
	e, err := newDocker("")
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if all, err := e.find(t.Context(), target.Target{Scheme: target.Docker, Name: "web"}); !errors.Is(err, ErrEngineTooOld) || !strings.HasSuffix(err.Error(), ": its API 1.39 is too old: porthole needs 1.40") {
		t.Errorf("%v, %v", all, err)
	}
}

// FuzzSettings holds that no settings of engines do harm.
func FuzzSettings(f *testing.F) {
	f.Add(`{"Endpoints":{"docker":{"Host":"ssh://me@box:22/run/x.sock"}}}`)
	f.Add("[engine]\nactive_service = 'x'\n[engine.service_destinations.x]\nuri = 'ssh://x'\n")
	f.Fuzz(func(t *testing.T, text string) {
		home := settings(t)
		putFile(t, contextFile(home, "meta", "x", "meta.json"), text)
		putFile(t, filepath.Join(home, ".docker/config.json"), text)
		putFile(t, filepath.Join(home, "containers.conf"), text)
		for scheme, find := range map[target.Scheme]func(string) (engineHost, error){target.Docker: dockerHost, target.Podman: podmanHost} {
			if h, err := find("x"); err == nil {
				_, _, _ = h.dialStdio(scheme)
			}
		}
	})
}

// A password in an engine's address is in no error.
func TestPasswordIsNotTold(t *testing.T) {
	settings(t)
	for _, address := range []string{
		"ssh://me:s3cret@box", "ssh://me:s3cret@box:port", "ssh://me:s3c%ret@box", "ssh://me:s3cret@box/'", "tcp://me:s3cret@127.0.0.1:1",
		"http://me:s3cret@127.0.0.1:1", "me:s3cret@box", "ssh://me:a/s3cret@box", "ssh://me:s3cret@box?a=b",
	} {
		t.Setenv("CONTAINER_HOST", address)
		e, err := newPodman("")
		if err == nil {
			_, err = e.list(t.Context())
			e.Close()
		}
		if err == nil || strings.Contains(err.Error(), "s3c") {
			t.Errorf("%s: %v", address, err)
		}
	}
}
