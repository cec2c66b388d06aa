package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// newPack is a pack of files that are made for a test.
func newPack(t *testing.T) *pack {
	t.Helper()
	dir := t.TempDir()
	p := &pack{name: "porthole.dev/porthole:v1.2.3", licenses: filepath.Join(dir, "licenses")}
	write(t, filepath.Join(p.licenses, "example.com", "module", "LICENSE"), "do as you like")
	for _, architecture := range []string{"amd64", "arm64"} {
		path := filepath.Join(dir, architecture)
		write(t, path, "a program for "+architecture)
		p.programs = append(p.programs, program{architecture, path})
	}
	return p
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// written is the archive and the digest of a pack.
func written(t *testing.T, p *pack) (archive string, digest v1.Hash) {
	t.Helper()
	archive = filepath.Join(t.TempDir(), "image.tar")
	digest, err := p.write(archive)
	if err != nil {
		t.Fatal(err)
	}
	return archive, digest
}

// The same files make the same image, wherever and whenever.
func TestSameBytes(t *testing.T) {
	first, digest := written(t, newPack(t))
	second, again := written(t, newPack(t))
	one, _ := os.ReadFile(first)
	other, _ := os.ReadFile(second)
	if digest != again || !bytes.Equal(one, other) {
		t.Errorf("two images of the same files: %v and %v, %d and %d bytes", digest, again, len(one), len(other))
	}
	p := newPack(t)
	write(t, p.programs[1].path, "another program")
	if _, other := written(t, p); other == digest {
		t.Error("another program makes the same image")
	}
}

func TestContents(t *testing.T) {
	archive, digest := written(t, newPack(t))
	folder := t.TempDir()
	if out, err := exec.Command("tar", "-xf", archive, "-C", folder).CombinedOutput(); err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}
	all, err := layout.ImageIndexFromPath(folder)
	if err != nil {
		t.Fatal(err)
	}
	top, err := all.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(top.Manifests) != 1 || top.Manifests[0].Digest != digest || top.Manifests[0].Annotations["io.containerd.image.name"] != "porthole.dev/porthole:v1.2.3" {
		t.Fatalf("index.json has %+v, want one image %v", top.Manifests, digest)
	}
	index, err := all.ImageIndex(digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Error(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for i, architecture := range []string{"amd64", "arm64"} {
		if platform := manifest.Manifests[i].Platform; platform == nil || platform.String() != "linux/"+architecture {
			t.Errorf("image %d is for %v, want %s", i, platform, architecture)
		}
		image, err := index.Image(manifest.Manifests[i].Digest)
		if err != nil {
			t.Fatal(err)
		}
		checkImage(t, image, architecture)
	}
}

func checkImage(t *testing.T, image v1.Image, architecture string) {
	t.Helper()
	file, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c := file.Config
	if file.OS != "linux" || file.Architecture != architecture || fmt.Sprint(c.Entrypoint) != "[/porthole agent]" || c.User != "65532:65532" {
		t.Errorf("config is %+v", file)
	}
	if c.Labels["org.opencontainers.image.version"] != "v1.2.3" {
		t.Errorf("labels are %v", c.Labels)
	}
	files := mutate.Extract(image)
	defer files.Close()
	want := map[string]string{
		"0:0 111 porthole": "a program for " + architecture,
		"0:0 444 licenses/example.com/module/LICENSE": "do as you like",
	}
	got := map[string]string{}
	for r := tar.NewReader(files); ; {
		header, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, _ := io.ReadAll(r)
		got[fmt.Sprintf("%d:%d %o %s", header.Uid, header.Gid, header.Mode, header.Name)] = string(content)
	}
	if !maps.Equal(got, want) {
		t.Errorf("%s has %q, want %q", architecture, slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
	}
}

// What cannot become an image leaves nothing behind.
func TestErrors(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*pack)
		want  string
	}{
		"no tag":      {func(p *pack) { p.name = "porthole.dev/porthole" }, "tag"},
		"no programs": {func(p *pack) { p.programs = nil }, "no programs"},
		"no program":  {func(p *pack) { p.programs[0].path += "x" }, "no such file"},
		"no licenses": {func(p *pack) { p.licenses += "x" }, "no such file"},
	} {
		p := newPack(t)
		c.spoil(p)
		dir := t.TempDir()
		_, err := p.write(filepath.Join(dir, "image.tar"))
		if left, _ := os.ReadDir(dir); err == nil || !strings.Contains(err.Error(), c.want) || len(left) > 0 {
			t.Errorf("%s: %v, want %s; left behind: %v", name, err, c.want, left)
		}
	}
}
