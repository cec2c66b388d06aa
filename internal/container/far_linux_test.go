package container_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"porthole.dev/porthole/internal/container"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

// sshTo starts a real sshd, and makes ssh of this test's PATH go there for the host box.
func sshTo(t *testing.T, environment ...string) {
	t.Helper()
	ssh, err := exec.LookPath("ssh")
	if err != nil {
		testenv.Lacking(t, "ssh")
	}
	port, release, err := testenv.ReservePort()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	server := &testenv.SSHServer{Address: "127.0.0.1", Port: port, Dir: t.TempDir(), Env: environment}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	script := fmt.Sprintf("#!/bin/sh\nexec %s -F %s \"$@\"\n", ssh, server.File("config"))
	if err := os.WriteFile(server.File("ssh"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", server.Dir+":"+os.Getenv("PATH"))
}

// Containers of an engine on another machine are reached by a helper container, whatever leads to the engine; natively they are not,
// although there may be a process here by each one's number.
func TestFarEngine(t *testing.T) {
	testenv.Root(t)
	far := testenv.NewFarDocker(t)
	far.Run(t, []string{"--name", "web", "--hostname", "there"})
	noHelpers(t, far.Engine)
	docker, bin := testenv.Program(t, "docker.io", "usr/bin/docker")
	sshTo(t, "PATH="+bin+":/usr/bin:/bin", "DOCKER_HOST="+far.Host)
	t.Setenv("DOCKER_HOST", "")
	os.Unsetenv("DOCKER_HOST")
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	tls := fmt.Sprintf("host=tcp://%s,ca=%s,cert=%s,key=%s", far.Address, filepath.Join(far.TLS, "ca.pem"), filepath.Join(far.TLS, "cert.pem"), filepath.Join(far.TLS, "key.pem"))
	for context, host := range map[string]string{"by-tls": tls, "by-ssh": "host=ssh://root@box"} {
		if out, err := exec.Command(docker, "context", "create", context, "--docker", host).CombinedOutput(); err != nil {
			t.Fatalf("docker context create: %v: %s", err, out)
		}
		t.Run(context, func(t *testing.T) {
			testenv.NoLeaks(t)
			o := helperOpener(t)
			f := target.Forward{Target: target.Target{Scheme: target.Docker, Name: "web"}, EngineContext: context, Via: target.ViaNative}
			if _, err := o.Open(t.Context(), f, func(route.Event) {}); !errors.Is(err, container.ErrElsewhere) {
				t.Errorf("natively: %v, want %v", err, container.ErrElsewhere)
			}
			if owned, err := container.OwnedByTime(t.Context(), context, "web"); owned || err != nil {
				t.Errorf("a process here is taken for the container's by its number and time: %v", err)
			}
			f.Via = target.ViaAuto
			log := &eventLog{}
			r, err := o.Open(t.Context(), f, log.add)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			answers(t, r, "there")
			if log.kinds() != "carried ready" || !errors.Is(log.all[0].Err, container.ErrElsewhere) {
				t.Errorf("events %+v", log.all)
			}
		})
	}
}
