package container

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/moby/moby/client"
)

// defaultContext is the name of the context that docker has without any settings.
const defaultContext = "default"

// dockerHost finds where Docker's engine listens, as docker does: by the context of that name, or else by DOCKER_HOST,
// DOCKER_CONTEXT and the current context of its settings. Errors: ErrNoContext, ErrContextUnread.
func dockerHost(name string) (engineHost, error) {
	dir := dockerConfig()
	if name == "" && os.Getenv("DOCKER_HOST") == "" {
		name = cmp.Or(os.Getenv("DOCKER_CONTEXT"), currentContext(dir))
	}
	if name != "" && name != defaultContext {
		return contextHost(dir, name)
	}
	h := engineHost{url: cmp.Or(os.Getenv("DOCKER_HOST"), client.DefaultDockerHost)}
	verify := os.Getenv("DOCKER_TLS_VERIFY") != ""
	if !verify && os.Getenv("DOCKER_TLS") == "" {
		return h, nil
	}
	var err error
	h.tls, err = tlsInFolder(cmp.Or(os.Getenv("DOCKER_CERT_PATH"), dir), !verify)
	return h, err
}

// dockerConfig is the folder of docker's settings.
func dockerConfig() string { return cmp.Or(os.Getenv("DOCKER_CONFIG"), inHome(".docker")) }

// inHome is a path in the user's home, "" if there is none.
func inHome(path string) string {
	home, err := os.UserHomeDir()
	if err != nil {
		return ""
	}
	return filepath.Join(home, path)
}

// currentContext is what `docker context use` has chosen; "" for none.
func currentContext(dir string) string {
	var settings struct{ CurrentContext string }
	text, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil || json.Unmarshal(text, &settings) != nil {
		return ""
	}
	return settings.CurrentContext
}

// dockerContexts are the names of docker's contexts, as far as they can be read.
func dockerContexts() []string {
	names := []string{defaultContext}
	files, _ := filepath.Glob(filepath.Join(dockerConfig(), "contexts/meta/*/meta.json"))
	for _, path := range files {
		var meta struct{ Name string }
		text, err := os.ReadFile(path)
		if err == nil && json.Unmarshal(text, &meta) == nil && meta.Name != "" {
			names = append(names, meta.Name)
		}
	}
	return names
}

// contextHost reads one of docker's contexts (docker-context(1)).
func contextHost(dir, name string) (engineHost, error) {
	sum := sha256.Sum256([]byte(name))
	id := hex.EncodeToString(sum[:])
	text, err := os.ReadFile(filepath.Join(dir, "contexts/meta", id, "meta.json"))
	if errors.Is(err, os.ErrNotExist) {
		return engineHost{}, fmt.Errorf("%w: %s", ErrNoContext, name)
	}
	var meta struct {
		Endpoints map[string]struct {
			Host          string
			SkipTLSVerify bool
		}
	}
	if err == nil {
		err = json.Unmarshal(text, &meta)
	}
	if err != nil {
		return engineHost{}, fmt.Errorf("%w: %s: %w", ErrContextUnread, name, err)
	}
	endpoint := meta.Endpoints["docker"]
	if endpoint.Host == "" {
		return engineHost{}, fmt.Errorf("%w: %s names no host of an engine", ErrContextUnread, name)
	}
	h := engineHost{url: endpoint.Host}
	tlsDir := filepath.Join(dir, "contexts/tls", id, "docker")
	if exists(tlsDir) || endpoint.SkipTLSVerify {
		h.tls, err = tlsInFolder(tlsDir, endpoint.SkipTLSVerify)
		return h, err
	}
	return h, nil
}
