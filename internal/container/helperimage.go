package container

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
)

const (
	// helperImages is the name of all images of helper containers, whose tags are made of what is in them.
	helperImages = "porthole.dev/porthole-agent"
	// helperLabel marks images and containers that porthole has made in an engine. Its value for a container is the ID of
	// the one that it is for.
	helperLabel = "porthole.dev/helper"
	// helperUser is an ordinary user without rights, the same number as in distroless images.
	helperUser = "65532:65532"
)

// helperImage is an image of one static program: what `docker save` would write for it. The format is the "Combined Image JSON
// + Filesystem Changeset" of the Docker image specification 1.2, which every engine reads.
type helperImage struct {
	name    string // with its tag, which is the same for the same program
	program string // the file
	config  []byte
}

// newHelperImage reads the program once, for its hash.
func newHelperImage(program, architecture string) (*helperImage, error) {
	i := &helperImage{program: program}
	layer := sha256.New()
	if err := i.writeLayer(layer); err != nil {
		return nil, err
	}
	var err error
	i.config, err = json.Marshal(map[string]any{
		"architecture": architecture,
		"os":           "linux",
		"config": map[string]any{
			"Entrypoint": []string{"/porthole"}, "User": helperUser, "Labels": map[string]string{helperLabel: "image"},
		},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(layer.Sum(nil))}},
	})
	i.name = helperImages + ":" + i.digest()[:12]
	return i, err
}

// digest is the image's ID.
func (i *helperImage) digest() string {
	sum := sha256.Sum256(i.config)
	return hex.EncodeToString(sum[:])
}

// writeLayer writes the archive of the image's only file.
func (i *helperImage) writeLayer(to io.Writer) error {
	program, err := os.Open(i.program)
	if err != nil {
		return err
	}
	defer program.Close()
	info, err := program.Stat()
	if err != nil {
		return err
	}
	w := tar.NewWriter(to)
	// The kernel keeps other processes of the same user from looking into one whose program they may not read (ptrace(2)).
	if err := w.WriteHeader(&tar.Header{Name: "porthole", Mode: 0o111, Size: info.Size()}); err != nil {
		return err
	}
	if _, err = io.Copy(w, program); err != nil {
		return err
	}
	return w.Close()
}

// archive makes the image. Its layer is compressed, as it may have a long way to go: not all, which podman 4.3 cannot read.
func (i *helperImage) archive() (io.Reader, error) {
	var archive, layer bytes.Buffer
	zip, err := gzip.NewWriterLevel(&layer, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(i.writeLayer(zip), zip.Close()); err != nil {
		return nil, err
	}
	manifest, err := json.Marshal([]map[string]any{{"Config": i.digest() + ".json", "RepoTags": []string{i.name}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return nil, err
	}
	w := tar.NewWriter(&archive)
	err = errors.Join(
		writeFile(w, i.digest()+".json", i.config), writeFile(w, "manifest.json", manifest), writeFile(w, "layer.tar", layer.Bytes()), w.Close())
	return &archive, err
}

func writeFile(w *tar.Writer, name string, content []byte) error {
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}
