package cluster

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// tool is a folder under this module and the programs compiled from it. The big ones are modules of their own:
// etcd, containerd, CoreDNS and Kubernetes want different versions of what they share.
type tool struct {
	folder string
	// version is the module whose version is written into the programs; empty means none.
	version string
	// programs are packages by the name of the binary.
	programs map[string]string
}

func tools() []tool {
	const kubernetes = "k8s.io/kubernetes/cmd/"
	const containerd = "github.com/containerd/containerd/v2/cmd/"
	return []tool{
		{folder: "tools/containerd", programs: map[string]string{
			"containerd":              containerd + "containerd",
			"containerd-shim-runc-v2": containerd + "containerd-shim-runc-v2",
			"ctr":                     containerd + "ctr",
		}},
		{folder: "tools/etcd", programs: map[string]string{"etcd": "go.etcd.io/etcd/server/v3"}},
		{folder: "tools/kubernetes", version: "k8s.io/kubernetes", programs: map[string]string{
			"kube-apiserver":          kubernetes + "kube-apiserver",
			"kube-controller-manager": kubernetes + "kube-controller-manager",
			"kube-scheduler":          kubernetes + "kube-scheduler",
			"kubectl":                 kubernetes + "kubectl",
			"kubelet":                 kubernetes + "kubelet",
		}},
		{folder: "tools/coredns", programs: map[string]string{"coredns": "."}},
		{folder: "images", programs: map[string]string{"pause": "./pause", "hello": "./hello"}},
	}
}

// Build compiles what is not compiled yet, and installs the Debian packages that the node needs besides.
// What a tool's sums and sources and the compiler's version were is kept beside the binaries: as long as
// they are the same, nothing is done.
func Build(ctx context.Context, options Options) error {
	dir, err := openFolder(options.Dir)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir.bin(), 0o755); err != nil {
		return fmt.Errorf("build: %w", err)
	}
	if err := ensurePackages(ctx, options); err != nil {
		return err
	}
	source, err := sourceDir()
	if err != nil {
		return err
	}
	for _, t := range tools() {
		began := time.Now()
		built, err := t.build(ctx, source, dir)
		if err != nil {
			return fmt.Errorf("build %s: %w", t.folder, err)
		}
		if built {
			loggerOf(options).Info("built", "tool", t.folder, "took", time.Since(began).Round(time.Second))
		}
	}
	return nil
}

// build reports whether there was anything to do. The key is written last, so a build cut short is done again.
func (t tool) build(ctx context.Context, source string, dir folder) (bool, error) {
	key, err := t.key(ctx, source)
	if err != nil {
		return false, err
	}
	keyFile := dir.binary(strings.ReplaceAll(t.folder, "/", "-") + ".key")
	if held, err := os.ReadFile(keyFile); err == nil && string(held) == key {
		return false, nil
	}
	flags, err := t.linkerFlags(ctx, source)
	if err != nil {
		return false, err
	}
	for name, target := range t.programs {
		if err := t.compile(ctx, source, flags, dir.binary(name), target); err != nil {
			return false, err
		}
	}
	return true, os.WriteFile(keyFile, []byte(key), 0o644)
}

// key is a hash over all that decides what the compiler writes.
func (t tool) key(ctx context.Context, source string) (string, error) {
	version, err := t.goCommand(ctx, source, "env", "GOVERSION", "GOARCH").Output()
	if err != nil {
		return "", fmt.Errorf("ask the go command for its version: %w", err)
	}
	hash := sha256.New()
	fmt.Fprintf(hash, "%s%v", version, t.programs)
	err = filepath.WalkDir(filepath.Join(source, t.folder), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		fmt.Fprintf(hash, "%s %d\n%s", filepath.Base(path), len(content), content)
		return err
	})
	return hex.EncodeToString(hash.Sum(nil)), err
}

// linkerFlags gives the programs the version that they were published as;
// otherwise kubectl and the API server complain about each other.
func (t tool) linkerFlags(ctx context.Context, source string) (string, error) {
	const strip = "-s -w"
	if t.version == "" {
		return strip, nil
	}
	out, err := t.goCommand(ctx, source, "list", "-m", "-f", "{{.Version}}", t.version).Output()
	if err != nil {
		return "", fmt.Errorf("find version of %s: %w", t.version, err)
	}
	version := strings.TrimSpace(string(out))
	parts := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	if len(parts) != 3 {
		return "", fmt.Errorf("find version of %s: %q is none", t.version, version)
	}
	const variable = " -X k8s.io/component-base/version."
	return strip + variable + "gitVersion=" + version + variable + "gitMajor=" + parts[0] + variable + "gitMinor=" + parts[1], nil
}

// compile needs no C compiler: every program is static.
func (t tool) compile(ctx context.Context, source, flags, binary, target string) error {
	cmd := t.goCommand(ctx, source, "build", "-trimpath", "-ldflags", flags, "-o", binary, target)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", target, err, bytes.TrimSpace(out))
	}
	return nil
}

func (t tool) goCommand(ctx context.Context, source string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = filepath.Join(source, t.folder)
	// A workspace or flags of the user's would build something else than the sums say.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=-buildvcs=false")
	return cmd
}
