package kube

import (
	"errors"
	"sync"

	"porthole.dev/porthole/internal/pinned"
)

// errNoKeyFile means that the user has no folder for configuration.
var errNoKeyFile = errors.New("the key for agents has no place: HOME or XDG_CONFIG_HOME has to be set, to an absolute path")

// Agents says what the agents and relays of a user run, and by which key they know the user.
// Set the fields before the first use.
type Agents struct {
	// Image is what runs, and PullPolicy is Kubernetes' own word; "" for its own choice.
	Image      string
	PullPolicy string
	// Patch is the user's of an agent's container, and RelayPatch that of a relay's pod template.
	Patch, RelayPatch Patch
	// Version is that of this program.
	Version string
	// KeyFile is where the user's key is, or will be; "" if there is no place for it.
	KeyFile string

	once    sync.Once
	private pinned.Key
	made    bool // private was made just now
	err     error
}

// key returns the user's key, and makes it if there is none.
func (a *Agents) key() (pinned.Key, error) {
	a.once.Do(func() {
		if a.err = errNoKeyFile; a.KeyFile != "" {
			a.private, a.made, a.err = pinned.LoadKey(a.KeyFile)
		}
	})
	return a.private, a.err
}
