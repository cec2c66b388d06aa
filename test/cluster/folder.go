package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	modulePath = "porthole.dev/porthole/test/cluster"
	// runFolder holds sockets. A shim's socket folder may be 38 characters long at most,
	// so it cannot lie below a folder that the user chose.
	runFolder = "/run/porthole-cluster"
)

// folder is where one cluster keeps everything, with no symbolic link in its path:
// it is compared with what the kernel reports about mounts.
type folder string

// openFolder resolves dir, which need not exist, and falls back on the default.
func openFolder(dir string) (folder, error) {
	if dir == "" {
		source, err := sourceDir()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(source, "..", "..", ".cache", "cluster")
	}
	absolute, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("find cluster folder: %w", err)
	}
	resolved, err := filepath.EvalSymlinks(absolute)
	if errors.Is(err, fs.ErrNotExist) {
		return folder(absolute), nil
	}
	return folder(resolved), err
}

// sourceDir is the folder of this module, whose tools Build compiles.
func sourceDir() (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", modulePath).Output()
	if err != nil {
		return "", fmt.Errorf("find module %s: %w\nhint: run it with `go -C test/cluster`, from the repository's root", modulePath, err)
	}
	return strings.TrimSpace(string(out)), nil
}

func (f folder) bin() string               { return filepath.Join(string(f), "bin") }
func (f folder) binary(name string) string { return filepath.Join(string(f), "bin", name) }
func (f folder) logs() string              { return filepath.Join(string(f), "logs") }
func (f folder) log(name Component) string { return filepath.Join(f.logs(), string(name)+".log") }
func (f folder) state(parts ...string) string {
	return filepath.Join(append([]string{string(f), "state"}, parts...)...)
}
func (f folder) record() string             { return f.state("cluster.json") }
func (f folder) config(name string) string  { return f.state("config", name) }
func (f folder) pki(name string) string     { return f.state("pki", name) }
func (f folder) pid(name Component) string  { return f.state("pids", string(name)+".json") }
func (f folder) kubeconfig(n string) string { return f.state("kubeconfig", n+".yaml") }

// make creates the empty folders of a new cluster. Logs of the cluster before are dropped here,
// not in Down, since they are most wanted after it.
func (f folder) make() error {
	if err := os.RemoveAll(f.logs()); err != nil {
		return fmt.Errorf("drop old logs: %w", err)
	}
	for _, dir := range []string{f.logs(), f.state("config"), f.state("pki"), f.state("pids"), f.state("kubeconfig"), f.state("cni")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make state: %w", err)
		}
	}
	return nil
}

func writeFile(path string, data []byte) error {
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	return nil
}

// lockMachine waits until no other program starts or ends a cluster here. The lock is an abstract socket:
// it goes with the program, however that ends, and leaves no file.
func lockMachine(ctx context.Context) (unlock func(), err error) {
	for {
		listener, err := net.Listen("unix", "@porthole-cluster")
		if err == nil {
			return func() { listener.Close() }, nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			return nil, fmt.Errorf("lock machine: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for another program's cluster: %w", ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}
