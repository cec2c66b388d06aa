package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// hostPrograms are what the node needs and the distribution builds better.
type hostPrograms struct {
	Runc      string
	CNIFolder string
}

// errPackages names what is missing; it is a type of its own for ensurePackages to install just that.
type errPackages []string

func (e errPackages) Error() string {
	list := strings.Join(e, " ")
	return fmt.Sprintf("missing on this machine: %s\nhint: apt-get install --no-install-recommends %s", list, list)
}

// findPackages fails with errPackages when a program is not there.
func findPackages() (hostPrograms, error) {
	var found hostPrograms
	var missing errPackages
	var err error
	if found.Runc, err = exec.LookPath("runc"); err != nil {
		missing = append(missing, "runc")
	}
	if found.CNIFolder = findCNI(); found.CNIFolder == "" {
		missing = append(missing, "containernetworking-plugins")
	}
	if len(missing) > 0 {
		return found, missing
	}
	return found, nil
}

// findCNI is the first folder with all the plugins, Debian's or the upstream's; empty when there is none.
func findCNI() string {
	for _, dir := range []string{"/usr/lib/cni", "/opt/cni/bin"} {
		complete := true
		for _, plugin := range []string{"bridge", "host-local"} {
			_, err := os.Stat(filepath.Join(dir, plugin))
			complete = complete && err == nil
		}
		if complete {
			return dir
		}
	}
	return ""
}

// ensurePackages installs what is missing, where it may: as root, with apt-get, unless it was forbidden.
func ensurePackages(ctx context.Context, options Options) error {
	_, err := findPackages()
	var missing errPackages
	if !errors.As(err, &missing) {
		return err
	}
	if options.NoInstall || os.Geteuid() != 0 {
		return missing
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return missing
	}
	loggerOf(options).Info("installing", "packages", strings.Join(missing, " "))
	if err := install(ctx, missing); err != nil {
		return fmt.Errorf("%w\n%w", missing, err)
	}
	_, err = findPackages()
	return err
}

// install tries with the package lists as they are, and fetches new ones only after a failure.
func install(ctx context.Context, packages []string) error {
	args := append([]string{"install", "--yes", "--no-install-recommends"}, packages...)
	if aptGet(ctx, args...) == nil {
		return nil
	}
	if err := aptGet(ctx, "update"); err != nil {
		return err
	}
	return aptGet(ctx, args...)
}

func aptGet(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "apt-get", args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get %s: %w: %s", args[0], err, bytes.TrimSpace(out))
	}
	return nil
}
