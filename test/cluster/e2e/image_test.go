package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// agentImage returns the name of the image of agents, once containerd has it: the one that `make image` has
// made ($PORTHOLE_IMAGE), or else one of the program under test that is made in the same way. It
// is the name that this program uses where no other is given.
func agentImage(t *testing.T) string {
	t.Helper()
	needCluster(t)
	name, err := importAgentImage()
	if err != nil {
		t.Fatal("the image of agents:", err)
	}
	return name
}

var importAgentImage = sync.OnceValues(func() (name string, err error) {
	out, err := exec.Command(porthole, "version").Output()
	if err != nil {
		return "", fmt.Errorf("%s version: %w", porthole, err)
	}
	version := strings.TrimSpace(strings.TrimPrefix(string(out), "porthole "))
	name = "porthole.dev/porthole:" + strings.TrimPrefix(strings.NewReplacer("(", "-", ")", "-", "+", "-").Replace(version), "-")
	archive := os.Getenv("PORTHOLE_IMAGE")
	if archive == "" {
		dir, err := os.MkdirTemp("", "porthole-image-")
		if err != nil {
			return "", err
		}
		defer os.RemoveAll(dir)
		archive = filepath.Join(dir, "image.tar")
		if err := packImage(name, archive); err != nil {
			return "", err
		}
	}
	return name, c.ImportArchive(context.Background(), archive)
})

// packImage makes an image of the program under test, without licences.
func packImage(name, archive string) error {
	program, err := filepath.Abs(porthole)
	if err != nil {
		return err
	}
	licenses := filepath.Join(filepath.Dir(archive), "licenses")
	if err := os.Mkdir(licenses, 0o755); err != nil {
		return err
	}
	pack := exec.Command("go", "run", ".", "-name", name, "-licenses", licenses, "-o", archive, runtime.GOARCH+"="+program)
	pack.Dir = "../../../packaging/image"
	pack.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := pack.CombinedOutput(); err != nil {
		return errors.Join(err, errors.New(string(out)))
	}
	return nil
}
