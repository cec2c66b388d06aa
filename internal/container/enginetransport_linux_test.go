package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

// endlessEngine serves an engine whose answer to a path that ends so never ends: first, and then again and again more. It counts
// the bytes that are taken of that.
func endlessEngine(t *testing.T, path, first, more string, taken *atomic.Int64) string {
	t.Helper()
	more = strings.Repeat(more, 1+10000/len(more))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.45")
		if !strings.HasSuffix(r.URL.Path, path) {
			fmt.Fprint(w, "[]")
			return
		}
		n, err := io.WriteString(w, first)
		for ; err == nil; n, err = io.WriteString(w, more) {
			taken.Add(int64(n))
		}
	}))
	t.Cleanup(server.Close)
	return "tcp://" + server.Listener.Addr().String()
}

// An engine that does not stop to answer is not listened to for long, whatever was asked.
func TestEndlessAnswers(t *testing.T) {
	web := target.Target{Scheme: target.Docker, Name: "web"}
	find := func(d *docker) error { _, err := d.find(t.Context(), web); return err }
	list := func(d *docker) error { _, err := d.list(t.Context()); return err }
	watch := func(d *docker) error { return d.watch(t.Context(), func() {}) }
	load := func(d *docker) error {
		answer, err := d.client.ImageLoad(t.Context(), strings.NewReader("image"))
		if err == nil {
			defer answer.Close()
			_, err = io.Copy(io.Discard, answer)
		}
		return err
	}
	version := func(d *docker) error {
		_, err := d.client.ServerVersion(t.Context(), client.ServerVersionOptions{})
		return err
	}
	for name, c := range map[string]struct {
		engine            func(string) (engine, error)
		path, first, more string
		ask               func(*docker) error
	}{
		"text of a container":     {newDocker, "/containers/web/json", `{"Id":"`, "a", find},
		"elements of a container": {newDocker, "/containers/web/json", `{"Mounts":[{}`, ",{}", find},
		"list":                    {newDocker, "/containers/json", `[{}`, ",{}", list},
		"podman's list":           {newPodman, "/libpod/containers/json", `[{}`, ",{}", list},
		"event":                   {newDocker, "/events", `{"Action":"`, "a", watch},
		"events":                  {newDocker, "/events", "", `{"Type":"container","Action":"start"}` + "\n", watch},
		"image":                   {newDocker, "/images/load", "", "loading\n", load},
		"version":                 {newDocker, "/version", `{"Arch":"`, "a", version},
	} {
		t.Run(name, func(t *testing.T) {
			testenv.NoLeaks(t)
			var taken atomic.Int64
			host := endlessEngine(t, c.path, c.first, c.more, &taken)
			t.Setenv("DOCKER_HOST", host)
			t.Setenv("CONTAINER_HOST", host)
			e, err := c.engine("")
			if err != nil {
				t.Fatal(err)
			}
			defer e.Close()
			if err := c.ask(e.(*docker)); !errors.Is(err, ErrLongAnswer) {
				t.Errorf("it ends with %v, want %v", err, ErrLongAnswer)
			}
			if n := taken.Load(); n > 2*maxAnswer {
				t.Errorf("%d MiB were taken", n>>20)
			}
		})
	}
}

// Thousands of containers with all that Compose says of each are no answer that is too long.
func TestLongList(t *testing.T) {
	testenv.NoLeaks(t)
	labels := make(map[string]string, 12)
	for i := range 12 {
		labels[fmt.Sprintf("com.docker.compose.label-%d", i)] = strings.Repeat("x", 60)
	}
	one, err := json.Marshal(container.Summary{ID: strings.Repeat("0a", 32), Names: []string{"/web"}, Labels: labels, Ports: make([]container.PortSummary, 2), Mounts: make([]container.MountPoint, 1)})
	if err != nil {
		t.Fatal(err)
	}
	const many = 5000
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.45")
		fmt.Fprintf(w, "[%s%s]", strings.Repeat(string(one)+",", many-1), one)
	}))
	defer server.Close()
	t.Setenv("DOCKER_HOST", "tcp://"+server.Listener.Addr().String())
	e, err := newDocker("")
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if all, err := e.list(t.Context()); err != nil || len(all) != many {
		t.Errorf("%d containers of %d bytes, %v", len(all), len(one), err)
	}
}

// Nor is a header without an end read for long, of an answer or of an attach.
func TestEndlessHeader(t *testing.T) {
	testenv.NoLeaks(t)
	var taken atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		n, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\n")
		for ; err == nil; n, err = io.WriteString(conn, strings.Repeat("A: b\r\n", 1000)) {
			taken.Add(int64(n))
		}
	}))
	defer server.Close()
	t.Setenv("DOCKER_HOST", "tcp://"+server.Listener.Addr().String())
	e, err := newDocker("")
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	for name, ask := range map[string]func(context.Context) error{
		"answer": func(ctx context.Context) error { _, err := e.list(ctx); return err },
		"attach": func(ctx context.Context) error { _, err := e.(*docker).way.attach(ctx, "1.45", "web"); return err },
	} {
		if err := ask(t.Context()); err == nil {
			t.Errorf("%s: it was taken", name)
		}
	}
	if n := taken.Load(); n > 64*maxHeader {
		t.Errorf("%d MiB were taken", n>>20)
	}
}
