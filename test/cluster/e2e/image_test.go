package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"porthole.dev/porthole/internal/testenv"
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

// The image runs where nothing is permitted, and tells its key as the first line.
func TestImage(t *testing.T) {
	ctx := needCluster(t)
	image := agentImage(t)
	apply(t, ctx, `
{apiVersion: v1, kind: Namespace, metadata: {name: image, labels: {pod-security.kubernetes.io/enforce: restricted}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: agent, namespace: image}, spec: {automountServiceAccountToken: false, terminationGracePeriodSeconds: 30, containers: [{
	name: agent, image: "`+image+`", imagePullPolicy: Never,
	args: ["--listen=127.0.0.1:4711", "--client-key=O2onvM62pC1io6jQKm8Nc2UyFXcd4kOmOsBIoYtZ2ik"],
	securityContext: {runAsNonRoot: true, readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}}}]}}
`)
	kubectl(t, ctx, "wait", "-n", "image", "--for=condition=Ready", "pod/agent", "--timeout=120s")
	var log string
	testenv.Await(t, "the agent tells its key", func() bool {
		log = kubectl(t, ctx, "logs", "-n", "image", "agent")
		return log != ""
	})
	if !regexp.MustCompile(`^porthole agent key=[A-Za-z0-9_-]{43} version=\S+$`).MatchString(log) {
		t.Errorf("the log is %q", log)
	}
	began := time.Now()
	kubectl(t, ctx, "delete", "-n", "image", "pod/agent")
	if took := time.Since(began); took > 25*time.Second {
		t.Errorf("it took %v to end the agent: it does not heed SIGTERM", took)
	}
}
