package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// user is an ordinary user without rights, the same number as in distroless images.
const user = "65532:65532"

// pack is what an image is made of.
type pack struct {
	name     string // with a tag
	licenses string // folder
	programs []program
}

// program is porthole for one platform.
type program struct{ architecture, path string }

// write writes an archive with the image for all platforms, and returns the image's digest.
func (p *pack) write(archive string) (v1.Hash, error) {
	tag, err := name.NewTag(p.name, name.StrictValidation)
	if err != nil {
		return v1.Hash{}, err
	}
	if len(p.programs) == 0 {
		return v1.Hash{}, errors.New("no programs")
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, program := range p.programs {
		image, err := p.image(program, tag.TagStr())
		if err != nil {
			return v1.Hash{}, err
		}
		platform := &v1.Platform{OS: "linux", Architecture: program.architecture}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: platform}})
	}
	folder, err := os.MkdirTemp(filepath.Dir(archive), ".image-*")
	if err != nil {
		return v1.Hash{}, err
	}
	defer os.RemoveAll(folder)
	to, err := layout.Write(folder, empty.Index)
	if err != nil {
		return v1.Hash{}, err
	}
	err = to.AppendIndex(index, layout.WithAnnotations(map[string]string{
		"io.containerd.image.name":          p.name,       // for ctr and docker
		"org.opencontainers.image.ref.name": tag.TagStr(), // the specification's own
	}))
	if err != nil {
		return v1.Hash{}, err
	}
	if err := tarFolder(folder, archive); err != nil {
		return v1.Hash{}, err
	}
	return index.Digest()
}

// image makes the image for one platform.
func (p *pack) image(program program, version string) (v1.Image, error) {
	content, err := p.layer(program)
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil },
		tarball.WithCompressionLevel(gzip.BestCompression), tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	if image, err = mutate.AppendLayers(image, layer); err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", program.architecture
	config.Config = v1.Config{Entrypoint: []string{"/porthole", "agent"}, User: user, Labels: labels(version)}
	return mutate.ConfigFile(image, config)
}

// labels are those of the OCI image specification, annotations.md.
func labels(version string) map[string]string {
	return map[string]string{
		"org.opencontainers.image.title":       "porthole",
		"org.opencontainers.image.description": "The far end of a port-forward, in a pod",
		"org.opencontainers.image.url":         "https://porthole.dev/porthole",
		"org.opencontainers.image.version":     version,
	}
}

// layer is the archive of an image's files.
func (p *pack) layer(program program) ([]byte, error) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	content, err := os.ReadFile(program.path)
	if err != nil {
		return nil, err
	}
	// The kernel keeps other processes of the same user from looking into one whose program they may
	// not read, from the first instant on (ptrace(2)).
	if err := addFile(w, "porthole", 0o111, content); err != nil {
		return nil, err
	}
	err = filepath.WalkDir(p.licenses, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		below, err := filepath.Rel(p.licenses, path)
		if err != nil {
			return err
		}
		return addFile(w, "licenses/"+filepath.ToSlash(below), 0o444, content)
	})
	if err != nil {
		return nil, err
	}
	return archive.Bytes(), w.Close()
}

// tarFolder writes an archive of a folder, in the order of names.
func tarFolder(folder, archive string) (err error) {
	f, err := os.Create(archive)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := tar.NewWriter(f)
	err = fs.WalkDir(os.DirFS(folder), ".", func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(filepath.Join(folder, file))
		if err != nil {
			return err
		}
		return addFile(w, path.Clean(file), 0o644, content)
	})
	return errors.Join(err, w.Close())
}

// addFile adds a file of root, without a time, so that the same contents make the same archive.
func addFile(w *tar.Writer, file string, mode int64, content []byte) error {
	if err := w.WriteHeader(&tar.Header{Name: file, Mode: mode, Size: int64(len(content)), Format: tar.FormatPAX}); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}
