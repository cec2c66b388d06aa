package main

import (
	"errors"
	"testing"

	"porthole.dev/porthole/internal/container"
	"porthole.dev/porthole/internal/ssh"
	"porthole.dev/porthole/internal/target"
)

// What keeps a container from being reached is one sentence, as its engine's own people would say it, and the next step.
func TestEngineErrors(t *testing.T) {
	web := func(scheme target.Scheme, state container.State, err error) error {
		return &container.StateError{Target: target.Target{Scheme: scheme, Name: "web"}, Name: "web", State: state, Err: err}
	}
	stopped := func(state container.State) error { return web(target.Docker, state, container.ErrNotRunning) }
	engine := func(scheme target.Scheme, err error) error {
		return &container.EngineError{Engine: scheme, Address: "unix:///x.sock", Err: err}
	}
	for _, test := range []struct {
		err  error
		want string
	}{
		{stopped(container.Created), "container web has never been started (hint: `docker start web` starts it)"},
		{stopped(container.Exited), "container web is not running (exited) (hint: `docker start web` starts it)"},
		{stopped(container.Paused), "container web is paused (hint: `docker unpause web` resumes it)"},
		{stopped(container.Removing), "container web is being removed (hint: `docker ps -a` shows whether it still is)"},
		{stopped(container.Stopping), "container web is stopping (hint: `docker ps -a` shows whether it still is)"},
		{stopped(container.Dead), "container web is dead (hint: it cannot be started again: `docker rm -f web` removes it)"},
		{stopped(container.Restarting), "container web is restarting (hint: its engine starts it again and again: `docker logs web` may show why it ends)"},
		{stopped("initialized"), "container web is not running (initialized) (hint: `docker start web` starts it)"},
		{web(target.Containerd, container.NoTask, container.ErrNotRunning), "container web is not running (it has no task) (hint: `nerdctl start web` or `ctr tasks start -d web` starts it)"},
		{web(target.CRI, container.NotReady, container.ErrNotRunning), "pod web is not running (not ready) (hint: the kubelet starts it again if it is to run; `crictl pods` shows the pods of this node)"},
		{web(target.Podman, container.Running, container.ErrEnded), "container web has ended (hint: `podman start web` starts it, and `podman logs web` may show why it has ended)"},
		{&container.StateError{Target: target.Target{Scheme: target.Containerd, Name: "0a1b"}, Name: "k8s://default/web/server", Err: container.ErrEnded},
			"container k8s://default/web/server has ended (hint: Kubernetes starts it again with another ID: forward to its pod, cri://default/web, which is followed)"},
		{web(target.Docker, "", container.ErrRemoved), "container web was removed (hint: a container is followed to the next one of its name only if it is named by that, and not by its ID)"},
		{&container.StateError{Target: target.Target{Scheme: target.Docker, Name: "web"}, Context: "far", Name: "web", State: container.Exited, Err: container.ErrNotRunning},
			"container web is not running (exited) (hint: `docker --context far start web` starts it)"},
		{&container.NotFoundError{Target: target.Target{Scheme: target.Podman, Name: "web"}, Context: "far"}, "no such container: web (hint: `podman --connection far ps -a` lists what there is)"},
		{&container.EngineError{Engine: target.Docker, Address: "tcp://box:2376", Err: container.ErrNoEngine},
			"docker at tcp://box:2376 is not running (hint: start it on that host; DOCKER_HOST, CONTAINER_HOST and --engine-context name another one)"},
		{engine(target.Docker, container.ErrNoAnswer), "docker at unix:///x.sock does not answer (hint: `docker version` shows whether docker itself gets an answer)"},
		{engine(target.Docker, container.ErrLongAnswer), "docker at unix:///x.sock: the engine's answer is too long (hint: `docker ps -a` shows whether it gets an answer; the address may not be an engine's)"},
		{engine(target.Podman, errors.New("EOF")), "podman at unix:///x.sock: EOF (hint: `podman --remote version` shows whether podman itself gets an answer)"},
		{engine(target.CRI, container.ErrNoAnswer), "container runtime at unix:///x.sock does not answer (hint: `crictl version` shows whether crictl itself gets an answer)"},
		{engine(target.Docker, &ssh.Error{Host: target.Host{Name: "box"}, Status: 255, Output: "no route"}), "docker at unix:///x.sock: ssh://box: ssh failed: no route (hint: `ssh box` shows more)"},
		{&container.EngineError{Engine: target.Docker, Address: "unix:///x.sock", Group: "docker", Err: container.ErrEnginePermission},
			"docker at unix:///x.sock: permission denied: this user may not use its socket (hint: the group docker may: `sudo usermod -aG docker $USER` and a new login, or run porthole with sudo)"},
	} {
		if got := describe(test.err, false); got != test.want {
			t.Errorf("got  %s\nwant %s", got, test.want)
		}
	}
}
