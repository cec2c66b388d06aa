package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"porthole.dev/porthole/internal/testenv"
)

// Nothing that a shell takes for more than a word is offered, whatever a target calls its sockets.
func TestCompletesPlainWords(t *testing.T) {
	testenv.Root(t)
	testenv.NoLeaks(t)
	pod := testenv.NewPod(t)
	dir := t.TempDir()
	for _, name := range []string{"plain.sock", "$(touch hacked)a", "$(touch hacked)b", "`id`", "a;b", "a b", "a\nb"} {
		pod.ListenUnix(t, filepath.Join(dir, name))
	}
	f := &forwarding{}
	var got []string
	testenv.Await(t, "something is offered in time", func() bool {
		got, _ = f.completeListening(t.Context(), fmt.Sprintf("pid://%d", pod.PID), ":")
		return len(got) > 0
	})
	for i := range got {
		got[i], _, _ = strings.Cut(got[i], "\t")
	}
	if want := []string{":" + dir + "/plain.sock"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := beginning("", []string{"$(id)", "web\tan image;", "`"}, ""); !slices.Equal(got, []string{"web\tan image;"}) {
		t.Errorf("%q", got)
	}
}

// A shell that completes ports does not wait for a helper container, and none is started.
func TestCompletesWithoutHelper(t *testing.T) {
	testenv.Root(t)
	far := testenv.NewFarDocker(t)
	far.Run(t, []string{"--name", "web"})
	program := testenv.Porthole(t)
	run := func(args ...string) string {
		cmd := exec.Command(program, args...)
		cmd.Env = append(os.Environ(), "DOCKER_HOST=tcp://"+far.Address, "DOCKER_TLS_VERIFY=1", "DOCKER_CERT_PATH="+far.TLS)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%q: %v: %s", args, err, out)
		}
		return string(out)
	}
	helpers := func() int {
		soon := strconv.FormatInt(time.Now().Unix()+2, 10) // in whole seconds
		return strings.Count(far.Do(t, "events", "--since", "1h", "--until", soon, "--filter", "label=porthole.dev/helper"), " container create ")
	}
	run("forward", "--via", "agent", "docker://web", ":8080", "--", "true") // the image is there from now on
	if helpers() != 1 {
		t.Fatalf("%d helpers, want 1", helpers())
	}
	testenv.Await(t, "the container is offered in time", func() bool {
		return strings.HasPrefix(run("__complete", "forward", "docker://w"), "docker://web\t")
	})
	run("__complete", "forward", "docker://web", "")
	if helpers() != 1 {
		t.Errorf("%d helpers, want no other one", helpers())
	}
}
