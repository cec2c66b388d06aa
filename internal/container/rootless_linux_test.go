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

// rootless runs a test as root with the engines of an ordinary user.
func rootless(t *testing.T, test func(t *testing.T, e *testenv.Engine, scheme string)) {
	noEngine := func(t *testing.T) {
		for _, name := range []string{"DOCKER_HOST", "CONTAINER_HOST", "CONTAINERD_ADDRESS", "CONTAINER_RUNTIME_ENDPOINT"} {
			t.Setenv(name, "unix:///nowhere/none.sock")
		}
	}
	t.Run("podman", func(t *testing.T) {
		e := testenv.NewRootlessPodman(t)
		noEngine(t)
		t.Setenv("CONTAINER_HOST", "") // podman's own socket of the user is found
		t.Setenv("XDG_RUNTIME_DIR", e.Dir)
		test(t, e, "podman://")
	})
	t.Run("docker", func(t *testing.T) {
		e := testenv.NewRootlessDocker(t)
		noEngine(t)
		t.Setenv("DOCKER_HOST", e.Host)
		test(t, e, "docker://")
	})
}

// Whoever runs an engine without root reaches its containers without root.
func TestRootless(t *testing.T) {
	if scheme := os.Getenv("ROOTLESS"); scheme != "" {
		reachOwn(t, scheme)
		return
	}
	rootless(t, func(t *testing.T, e *testenv.Engine, scheme string) {
		e.Run(t, []string{"--name", "web", "--hostname", "web"})
		e.Run(t, []string{"--name", "other", "--hostname", "other", "--user", "1000:1000", "--tmpfs", "/www:mode=1777"})
		t.Setenv("ROOTLESS", scheme)
		testenv.AsUser(t, "^TestRootless$")
	})
}

// reachOwn is what an ordinary user does with the containers of TestRootless.
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
func TestRootlessContainerd(t *testing.T) {
	if id := os.Getenv("ROOTLESS_ID"); id != "" {
		testenv.NoLeaks(t)
		r, _ := open(t, opener(t), "containerd://moby/"+id)
		testenv.Await(t, "the container answers", func() bool {
			who, err := whoAnswers(t.Context(), r)
			return err == nil && who == "web"
		})
		return
	}
	e := testenv.NewRootlessDocker(t)
	t.Setenv("ROOTLESS_ID", e.Run(t, []string{"--hostname", "web"}))
	t.Setenv("XDG_RUNTIME_DIR", e.Dir)
	t.Setenv("CONTAINERD_ADDRESS", e.Dir+"/exec/containerd/containerd.sock")
	testenv.AsUser(t, "^TestRootlessContainerd$")
}

// The command does it, too.
func TestRootlessForward(t *testing.T) {
	program := testenv.Porthole(t)
	rootless(t, func(t *testing.T, e *testenv.Engine, scheme string) {
		e.Run(t, []string{"--name", "web", "--hostname", "web"})
		copied := filepath.Join(e.Dir, "porthole") // which the user can enter
		if out, err := exec.Command("cp", program, copied).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		cmd := exec.Command(copied, "forward", scheme+"web", ":8080", "--via", "native", "--address", "127.0.0.1", "--quiet", "--",
			"sh", "-c", "curl -s --retry 20 --retry-all-errors http://$PORTHOLE_ADDR/id")
		cmd.Env = append(os.Environ(), "HOME=/")
		testenv.ByUser(cmd)
		if out, err := cmd.CombinedOutput(); err != nil || string(out) != "web\n" {
			t.Errorf("porthole forward: %v: %s", err, out)
		}
	})
}
