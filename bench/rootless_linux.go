package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"porthole.dev/porthole/internal/testenv"
)

// ordinaryUser has no account, as users of containers have none.
const ordinaryUser = "54321"

// rootless measures a porthole of an ordinary user, into a network namespace of the user's own, beside root's into root's.
func (b *bench) rootless(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "porthole-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	self, porthole := filepath.Join(dir, "bench"), filepath.Join(dir, "porthole")
	if err := errors.Join(copyProgram(fmt.Sprintf("/proc/%d/exe", os.Getpid()), self), copyProgram(b.porthole, porthole), os.Chmod(dir, 0o777)); err != nil {
		return err
	}
	server := asOrdinaryUser(ctx, "unshare", "--user", "--map-root-user", "--net", self, "inside", filepath.Join(dir, "server.sock"))
	port, err := startAndRead(server)
	if err != nil {
		return fmt.Errorf("start a server in a user namespace: %w", err)
	}
	defer func() { _ = server.Process.Kill(); _ = server.Wait() }()
	user, err := startPortholeAs(asOrdinaryUser(ctx, porthole, "forward", "--address", "127.0.0.1", fmt.Sprintf("pid://%d", server.Process.Pid), ":"+port))
	if err != nil {
		return err
	}
	defer user.close()
	root, err := b.startPorthole(ctx, b.inside.tcp())
	if err != nil {
		return err
	}
	defer root.close()
	root.name = "root"
	if err := b.likeNumbered("an ordinary user's namespace:", user, root, 0.95); err != nil {
		return err
	}
	all := asOrdinaryUser(ctx, porthole, "forward", "--address", "127.0.0.31", fmt.Sprintf("pid://%d", server.Process.Pid), "--all")
	if err := b.allIdle(ctx, all, "an ordinary user's namespace"); err != nil {
		return err
	}
	return withEngineBy(testenv.NewRootlessPodman, "CONTAINER_HOST", func(e benchEngine) error {
		e.scheme, e.self = "podman", self
		e.serve("porthole-bench")
		list := func() *exec.Cmd { return asOrdinaryUser(ctx, porthole, "targets") }
		return b.listMany(e, "an ordinary user's podman", list)
	})
}

// copyProgram copies a program into a folder that the user can enter.
func copyProgram(from, to string) error {
	if out, err := exec.Command("cp", from, to).CombinedOutput(); err != nil {
		return fmt.Errorf("copy %s: %w: %s", from, err, out)
	}
	return nil
}

// asOrdinaryUser is a command that an ordinary user runs.
func asOrdinaryUser(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "setpriv", append([]string{"--reuid", ordinaryUser, "--regid", ordinaryUser, "--clear-groups"}, args...)...)
	cmd.Env = append(os.Environ(), "HOME=/")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	return cmd
}
