package container

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

// An engine cannot have a process of this machine taken for a container's by an ID that is none: "" is the ID of no container, and
// others are words in the names of all cgroups.
func TestNoID(t *testing.T) {
	for _, id := range []string{"", "init", "user.slice", strings.Repeat("g", 64)} {
		testenv.NoLeaks(t)
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Api-Version", "1.45")
			if strings.HasSuffix(r.URL.Path, "/containers/web/json") {
				fmt.Fprintf(w, `{"Id": %q, "Name": "/web", "State": {"Status": "running", "Pid": %d}}`, id, os.Getpid())
			} else {
				fmt.Fprint(w, "[]")
			}
		}))
		t.Setenv("DOCKER_HOST", "tcp://"+server.Listener.Addr().String())
		docker, err := newDocker("")
		if err != nil {
			t.Fatal(err)
		}
		if all, err := docker.find(t.Context(), target.Target{Scheme: target.Docker, Name: "web"}); !errors.Is(err, errNoID) {
			t.Errorf("ID %q: %v, %v", id, all, err)
		}
		_ = docker.Close()
		server.Close()
	}
	if isProcessOf(found{PID: os.Getpid()}) {
		t.Error("a process is that of a container without an ID")
	}
}
