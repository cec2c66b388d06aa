package container

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v4"
)

// criSockets are where runtimes listen if nobody says so, in the order in which crictl looks, with k3s' and RKE2's containerd.
var criSockets = []string{
	defaultContainerd,
	"/run/k3s/containerd/containerd.sock",
	"/run/crio/crio.sock",
	"/run/cri-dockerd.sock",
}

// criEndpoints are the sockets of a container runtime, to be tried in this order: the one that the environment or
// crictl's file names, or the usual ones.
func criEndpoints() ([]string, error) {
	file, err := readCrictlFile()
	if err != nil {
		return nil, err
	}
	named := cmp.Or(os.Getenv("CONTAINER_RUNTIME_ENDPOINT"), file)
	if named == "" {
		return criSockets, nil
	}
	path, err := socketPath(named)
	if err != nil {
		return nil, err
	}
	return []string{path}, nil
}

// readCrictlFile returns the runtime-endpoint of $CRI_CONFIG_FILE or /etc/crictl.yaml, or "".
func readCrictlFile() (endpoint string, err error) {
	path := cmp.Or(os.Getenv("CRI_CONFIG_FILE"), "/etc/crictl.yaml")
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("crictl's settings: %w", err)
	}
	var settings struct {
		RuntimeEndpoint string `yaml:"runtime-endpoint"`
	}
	if err := yaml.Unmarshal(text, &settings); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return settings.RuntimeEndpoint, nil
}

// socketPath reads the address of a Unix socket. Errors: ErrEndpoint.
func socketPath(address string) (string, error) {
	path := strings.TrimPrefix(address, "unix://")
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("endpoint %q: %w", address, ErrEndpoint)
	}
	return filepath.Clean(path), nil
}
