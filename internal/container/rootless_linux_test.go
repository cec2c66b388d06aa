package container_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"porthole.dev/porthole/internal/container"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

// Whoever runs an engine without root reaches its containers without root.
func TestRootless(t *testing.T) {
	if scheme := os.Getenv("ROOTLESS"); scheme != "" {
		reachOwn(t, scheme)
		return
	}
	both := map[string]engineTest{"reached": testRootlessReached, "listed": testListAsksOnce, "forwarded": testRootlessForward}
	t.Run("podman", func(t *testing.T) {
		e := testenv.NewRootlessPodman(t)
		onlyEngine(t, "CONTAINER_HOST", "") // podman's own socket of the user is found
		t.Setenv("XDG_RUNTIME_DIR", e.Dir)
		withEngine(t, e, "podman://", both)
	})
	t.Run("docker", func(t *testing.T) {
		e := testenv.NewRootlessDocker(t)
		onlyEngine(t, "DOCKER_HOST", e.Host)
		withEngine(t, e, "docker://", both)
		withEngine(t, e, "", map[string]engineTest{"containerd": testRootlessContainerd})
	})
}

func testRootlessReached(t *testing.T, e *testenv.Engine, scheme string) {
	e.Run(t, []string{"--name", "web", "--hostname", "web"})
	e.Run(t, []string{"--name", "other", "--hostname", "other", "--user", "1000:1000", "--tmpfs", "/www:mode=1777"})
	t.Setenv("ROOTLESS", scheme)
	testenv.AsUser(t, "^TestRootless$")
}

// reachOwn is what an ordinary user does with the containers of testRootlessReached.
func reachOwn(t *testing.T, scheme string) {
	testenv.NoLeaks(t)
	o := opener(t)
	for _, name := range []string{"web", "other"} {
		r, log := open(t, o, scheme+name)
		testenv.Await(t, name+" answers", func() bool {
			who, err := whoAnswers(t.Context(), r)
			return err == nil && who == name
		})
		if kinds := log.kinds(); strings.Contains(kinds, "carried") {
			t.Errorf("%s: %s: by a helper container", name, kinds)
		}
	}
	for _, name := range []string{"web", "other"} {
		all := awaitListed(t, o, name, func(l container.Listed) bool { return len(l.Listening) > 0 || l.Unseen != nil })
		i := slices.IndexFunc(all, func(l container.Listed) bool { return l.Name == name })
		if l := all[i]; l.Unseen != nil || l.Listening[0].Address() != target.TCPPort(8080) {
			t.Errorf("listed as %+v", l)
		}
	}
}

// So does whoever runs a containerd without root.
func testRootlessContainerd(t *testing.T, e *testenv.Engine, _ string) {
	t.Setenv("ROOTLESS_ID", e.Run(t, []string{"--hostname", "web"}))
	t.Setenv("XDG_RUNTIME_DIR", e.Dir)
	t.Setenv("CONTAINERD_ADDRESS", e.Dir+"/exec/containerd/containerd.sock")
	testenv.AsUser(t, "^TestRootlessContainerd$")
}

// TestRootlessContainerd is part of testRootlessContainerd.
func TestRootlessContainerd(t *testing.T) {
	id := os.Getenv("ROOTLESS_ID")
	if id == "" {
		return
	}
	testenv.NoLeaks(t)
	r, _ := open(t, opener(t), "containerd://moby/"+id)
	testenv.Await(t, "the container answers", func() bool {
		who, err := whoAnswers(t.Context(), r)
		return err == nil && who == "web"
	})
}

// The command does it, too.
func testRootlessForward(t *testing.T, e *testenv.Engine, scheme string) {
	e.Run(t, []string{"--name", "web", "--hostname", "web"})
	copied := filepath.Join(e.Dir, "porthole") // which the user can enter
	if out, err := exec.Command("cp", testenv.Porthole(t), copied).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cmd := exec.Command(copied, "forward", scheme+"web", ":8080", "--via", "native", "--address", "127.0.0.1", "--quiet", "--",
		"sh", "-c", "curl -s --retry 20 --retry-all-errors http://$PORTHOLE_ADDR/id")
	cmd.Env = append(os.Environ(), "HOME=/")
	testenv.ByUser(cmd)
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "web\n" {
		t.Errorf("porthole forward: %v: %s", err, out)
	}
}
