package container

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"
)

const (
	defaultContainerd = "/run/containerd/containerd.sock"
	defaultNamespace  = "default"
)

// containerdSettings are where containerd listens, and the namespace of containers that are named without one:
// from the environment, or nerdctl's file, or what both have by default. An ordinary user's containerd is that of
// containerd-rootless.sh, if it was started, and its paths are those inside.
func containerdSettings() (socket, namespace string, err error) {
	file, err := readNerdctlFile()
	if err != nil {
		return "", "", err
	}
	socket, err = socketPath(cmp.Or(os.Getenv("CONTAINERD_ADDRESS"), file.Address, defaultContainerd))
	if err != nil {
		return "", "", err
	}
	if os.Geteuid() != 0 {
		socket = rootlessPath(os.Getenv("XDG_RUNTIME_DIR"), socket)
	}
	return socket, cmp.Or(os.Getenv("CONTAINERD_NAMESPACE"), file.Namespace, defaultNamespace), nil
}

// rootlessPath returns where a path of a rootless containerd is seen from outside: below the root of RootlessKit's
// child, whose number is in its state folder.
func rootlessPath(runtimeDir, path string) string {
	text, err := os.ReadFile(filepath.Join(runtimeDir, "containerd-rootless/child_pid"))
	child, failed := strconv.Atoi(strings.TrimSpace(string(text)))
	if runtimeDir == "" || err != nil || failed != nil || strings.HasPrefix(path, "/proc/") {
		return path
	}
	return filepath.Join("/proc", strconv.Itoa(child), "root", path)
}

// nerdctlSettings are those of nerdctl.toml that say which containerd is meant.
type nerdctlSettings struct {
	Address   string `toml:"address"`
	Namespace string `toml:"namespace"`
}

// readNerdctlFile reads the settings of $NERDCTL_TOML, or else of where nerdctl has them: an ordinary user's own, or the host's.
func readNerdctlFile() (settings nerdctlSettings, err error) {
	path := "/etc/nerdctl/nerdctl.toml"
	if home, err := os.UserConfigDir(); err == nil && os.Geteuid() != 0 {
		path = filepath.Join(home, "nerdctl/nerdctl.toml")
	}
	path = cmp.Or(os.Getenv("NERDCTL_TOML"), path)
	if _, err := toml.DecodeFile(path, &settings); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nerdctlSettings{}, fmt.Errorf("nerdctl's settings: %s: %w", path, err)
	}
	return settings, nil
}
