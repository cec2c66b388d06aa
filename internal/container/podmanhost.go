package container

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"

	"github.com/BurntSushi/toml"
)

// rootPodman is where podman's service of root listens.
const rootPodman = "/run/podman/podman.sock"

// podmanHost finds where podman's service listens: by the connection of that name, or else by CONTAINER_HOST and
// CONTAINER_CONNECTION. Where neither says, on Linux, where podman needs no service itself, it is the user's own socket, or
// root's, and only then the default connection, which elsewhere is the first choice (podman-system-connection(1)).
// Errors: ErrNoContext, ErrContextUnread.
func podmanHost(name string) (engineHost, error) {
	if host := os.Getenv("CONTAINER_HOST"); name == "" && host != "" {
		return engineHost{url: host, identity: os.Getenv("CONTAINER_SSHKEY")}, nil
	}
	name = cmp.Or(name, os.Getenv("CONTAINER_CONNECTION"))
	own := ownPodman()
	if name == "" && runtime.GOOS == "linux" {
		for _, path := range []string{own, rootPodman} {
			if exists(path) {
				return engineHost{url: "unix://" + path}, nil
			}
		}
	}
	connections, current, err := podmanConnections()
	if err != nil {
		return engineHost{}, err
	}
	c, ok := connections[cmp.Or(name, current)]
	switch {
	case ok:
		return engineHost{url: c.URI, identity: c.Identity}, nil
	case name != "":
		return engineHost{}, fmt.Errorf("%w: %s", ErrNoContext, name)
	}
	return engineHost{url: "unix://" + own}, nil
}

// ownPodman is where the user's own service of podman listens.
func ownPodman() string {
	dir := os.Getenv("XDG_RUNTIME_DIR")
	switch {
	case os.Getuid() <= 0: // root's, or of a system without users' numbers
		return rootPodman
	case dir == "":
		dir = fmt.Sprintf("/run/user/%d", os.Getuid())
	}
	return filepath.Join(dir, "podman/podman.sock")
}

// connection is one of podman's connections, as its settings have it.
type connection struct {
	URI      string `toml:"uri"`
	Identity string `toml:"identity"`
}

// podmanConnections returns all connections, and the name of the default one. Those of podman 5 are in a file of their own;
// older ones are in containers.conf(5), of which later files count more.
func podmanConnections() (all map[string]connection, current string, err error) {
	all = map[string]connection{}
	for _, path := range containersConf() {
		var settings struct {
			Engine struct {
				Active       string                `toml:"active_service"`
				Destinations map[string]connection `toml:"service_destinations"`
			} `toml:"engine"`
		}
		if _, err := toml.DecodeFile(path, &settings); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, "", fmt.Errorf("%w: %w", ErrContextUnread, err)
		}
		current = cmp.Or(settings.Engine.Active, current)
		maps.Copy(all, settings.Engine.Destinations)
	}
	path := cmp.Or(os.Getenv("PODMAN_CONNECTIONS_CONF"), filepath.Join(configHome(), "containers/podman-connections.json"))
	var settings struct {
		Connection struct {
			Default     string
			Connections map[string]connection
		}
	}
	text, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(text, &settings)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, "", fmt.Errorf("%w: %s: %w", ErrContextUnread, path, err)
	}
	maps.Copy(all, settings.Connection.Connections)
	return all, cmp.Or(settings.Connection.Default, current), nil
}

// containersConf are the files of podman's settings, the least important first.
func containersConf() []string {
	if path := os.Getenv("CONTAINERS_CONF"); path != "" {
		return []string{path}
	}
	return []string{"/usr/share/containers/containers.conf", "/etc/containers/containers.conf", filepath.Join(configHome(), "containers/containers.conf")}
}

// configHome is the folder of the user's settings (XDG Base Directory Specification).
func configHome() string { return cmp.Or(os.Getenv("XDG_CONFIG_HOME"), inHome(".config")) }
