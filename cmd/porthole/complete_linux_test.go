package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

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
	got, _ := f.completeListening(t.Context(), fmt.Sprintf("pid://%d", pod.PID), ":")
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
	t.Setenv("DOCKER_HOST", "tcp://"+far.Address)
	t.Setenv("DOCKER_TLS_VERIFY", "1")
	t.Setenv("DOCKER_CERT_PATH", far.TLS)
	testenv.NoLeaks(t)
	if got, _ := completeContainers(t.Context(), "docker", "docker://w"); len(got) != 1 {
		t.Errorf("containers %q", got)
	}
	f := &forwarding{}
	got, directive := f.completeListening(t.Context(), "docker://web", "")
	if len(got) != 0 || directive != cobra.ShellCompDirectiveNoFileComp {
		t.Errorf("ports %q, directive %d", got, directive)
	}
	if made := far.Do(t, "events", "--since", "1h", "--until", "0s", "--filter", "label=porthole.dev/helper"); made != "" {
		t.Errorf("a helper was started:\n%s", made)
	}
	if images := far.Do(t, "images", "-q", "--filter", "label=porthole.dev/helper"); images != "" {
		t.Errorf("an image was made: %s", images)
	}
}
