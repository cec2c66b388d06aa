package cluster

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

// pauseImage holds a pod's namespaces. No registry has it; it is made here.
const pauseImage = "porthole.dev/pause:1"

// ImportImage makes an image of one static binary and hands it to containerd under any full name,
// "porthole.dev/kuard:1". The binary becomes the entrypoint, with args as its first arguments.
// Pods use it with imagePullPolicy Never, or IfNotPresent.
func (c *Cluster) ImportImage(ctx context.Context, name, binary string, args ...string) error {
	archive, err := imageArchive(name, binary, args)
	if err != nil {
		return fmt.Errorf("import image %s: %w", name, err)
	}
	if err := c.importArchive(ctx, bytes.NewReader(archive)); err != nil {
		return fmt.Errorf("import image %s: %w", name, err)
	}
	return nil
}

// ImportArchive hands containerd the image of an archive, an OCI image layout or what `docker save`
// writes, under the name that the archive gives it.
func (c *Cluster) ImportArchive(ctx context.Context, path string) error {
	archive, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("import image: %w", err)
	}
	defer archive.Close()
	if err := c.importArchive(ctx, archive); err != nil {
		return fmt.Errorf("import image %s: %w", path, err)
	}
	return nil
}

func (c *Cluster) importArchive(ctx context.Context, archive io.Reader) error {
	ctr := exec.CommandContext(ctx, c.folder.binary("ctr"),
		"--address", containerdSocket, "--namespace", "k8s.io",
		"images", "import", "--snapshotter", "overlayfs", "-")
	ctr.Stdin = archive
	if out, err := ctr.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// imageArchive is what `docker save` would write for an image of one layer. The format is the
// "Combined Image JSON + Filesystem Changeset" of the Docker image specification 1.2.
func imageArchive(name, binary string, args []string) ([]byte, error) {
	content, err := os.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	program := filepath.Base(binary)
	layer, err := tarFiles(file{program, 0o755, content})
	if err != nil {
		return nil, err
	}
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config":       map[string]any{"Entrypoint": append([]string{"/" + program}, args...)},
		"rootfs":       map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + digest(layer)}},
	})
	if err != nil {
		return nil, err
	}
	configName := digest(config) + ".json"
	manifest, err := json.Marshal([]map[string]any{{
		"Config":   configName,
		"RepoTags": []string{name},
		"Layers":   []string{"layer.tar"},
	}})
	if err != nil {
		return nil, err
	}
	return tarFiles(file{configName, 0o644, config}, file{"layer.tar", 0o644, layer}, file{"manifest.json", 0o644, manifest})
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

type file struct {
	Name    string
	Mode    int64
	Content []byte
}

// tarFiles gives the same bytes for the same files: no times, no owners.
func tarFiles(files ...file) ([]byte, error) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, f := range files {
		header := &tar.Header{Name: f.Name, Mode: f.Mode, Size: int64(len(f.Content))}
		if err := w.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.Content); err != nil {
			return nil, err
		}
	}
	return archive.Bytes(), w.Close()
}
