package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
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
	self, err := os.Executable()
	if err != nil {
		return err
	}
	programs := map[string]string{self: filepath.Join(dir, "bench"), b.porthole: filepath.Join(dir, "porthole")}
	for from, to := range programs { // into a folder that the user can enter
		if out, err := exec.CommandContext(ctx, "cp", from, to).CombinedOutput(); err != nil {
			return fmt.Errorf("copy %s: %w: %s", from, err, out)
		}
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		return err
	}
	server := asOrdinaryUser(ctx, "unshare", "--user", "--map-root-user", "--net", programs[self], "inside", filepath.Join(dir, "server.sock"))
	port, err := startAndRead(server)
	if err != nil {
		return fmt.Errorf("start a server in a user namespace: %w", err)
	}
	defer func() { _ = server.Process.Kill(); _ = server.Wait() }()
	user, err := startPortholeAs(asOrdinaryUser(ctx, programs[b.porthole], "forward", "--address", "127.0.0.1", fmt.Sprintf("pid://%d", server.Process.Pid), ":"+port))
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
	return b.likeNumbered("an ordinary user's namespace:", user, root, 0.95)
}

// asOrdinaryUser is a command that an ordinary user runs.
func asOrdinaryUser(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "setpriv", append([]string{"--reuid", ordinaryUser, "--regid", ordinaryUser, "--clear-groups"}, args...)...)
	cmd.Env = append(os.Environ(), "HOME=/")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	return cmd
}
