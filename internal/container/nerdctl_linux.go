package container

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
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
	socket, err = socketPath(cmp.Or(os.Getenv("CONTAINERD_ADDRESS"), file["address"], defaultContainerd))
	if err != nil {
		return "", "", err
	}
	if os.Geteuid() != 0 {
		socket = rootlessPath(os.Getenv("XDG_RUNTIME_DIR"), socket)
	}
	return socket, cmp.Or(os.Getenv("CONTAINERD_NAMESPACE"), file["namespace"], defaultNamespace), nil
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

// readNerdctlFile reads the settings of $NERDCTL_TOML, or else of where nerdctl has them: an ordinary user's own, or the host's.
func readNerdctlFile() (map[string]string, error) {
	path := "/etc/nerdctl/nerdctl.toml"
	if home, err := os.UserConfigDir(); err == nil && os.Geteuid() != 0 {
		path = filepath.Join(home, "nerdctl/nerdctl.toml")
	}
	path = cmp.Or(os.Getenv("NERDCTL_TOML"), path)
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("nerdctl's settings: %w", err)
	}
	settings, err := tomlStrings(string(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return settings, nil
}

// tomlStrings reads the texts that stand before the first table of a TOML file, which is all that nerdctl's has:
// address = "/run/containerd/containerd.sock". Other values are passed over.
func tomlStrings(text string) (map[string]string, error) {
	settings := map[string]string{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			break
		}
		key, value, ok := strings.Cut(line, "=")
		key, value = strings.Trim(strings.TrimSpace(key), `"'`), strings.TrimSpace(value)
		if !ok || strings.HasPrefix(line, "#") || value == "" || strings.Trim(value[:1], `"'`) != "" {
			continue
		}
		if value[0] == '\'' { // as it stands
			text, _, ended := strings.Cut(value[1:], "'")
			if !ended {
				return nil, fmt.Errorf("%s: no end of the text", key)
			}
			settings[key] = text
			continue
		}
		quoted, err := strconv.QuotedPrefix(value)
		if err != nil {
			return nil, fmt.Errorf("%s: no end of the text", key)
		}
		settings[key], _ = strconv.Unquote(quoted)
	}
	return settings, nil
}
