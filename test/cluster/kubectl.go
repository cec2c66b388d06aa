package cluster

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
)

// KubectlPath is the kubectl of the cluster's own version.
func (c *Cluster) KubectlPath() string { return c.folder.binary("kubectl") }

// BinaryPath is one of the programs that Build compiled. "hello" is a web server on 127.0.0.1:8080, fit for ImportImage.
func (c *Cluster) BinaryPath(name string) string { return c.folder.binary(name) }

// Kubectl runs kubectl as the administrator and returns what it printed;
// what it complained about is in the error.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) ([]byte, error) {
	return c.run(ctx, "kubectl", append([]string{"--kubeconfig", c.Kubeconfig()}, args...)...)
}

// KubectlApply applies manifests, several of them separated by lines of three dashes.
func (c *Cluster) KubectlApply(ctx context.Context, manifests string) error {
	kubectl := exec.CommandContext(ctx, c.KubectlPath(), "--kubeconfig", c.Kubeconfig(), "apply", "-f", "-")
	kubectl.Stdin = bytes.NewBufferString(manifests)
	kubectl.Env = c.environment()
	if out, err := kubectl.CombinedOutput(); err != nil {
		return fmt.Errorf("apply manifests: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// run runs one of the cluster's own programs to its end.
func (c *Cluster) run(ctx context.Context, program string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, c.folder.binary(program), args...)
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	cmd.Env = c.environment()
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("%s: %w: %s", program, err, bytes.TrimSpace(complaint.Bytes()))
	}
	return out, nil
}
