package container_test

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	porthole "porthole.dev/porthole/internal/container"
	"porthole.dev/porthole/internal/testenv"
)

// Among 200 containers each is found, and as fast as among few.
func testMany(t *testing.T, e *testenv.Engine, _ string) {
	api, err := client.New(client.WithHost(e.Host))
	if err != nil {
		t.Fatal(err)
	}
	defer api.Close()
	for i := range 200 {
		options := client.ContainerCreateOptions{Name: fmt.Sprintf("c%d", i), Config: &container.Config{Image: testenv.Image, Cmd: testenv.Web, Hostname: fmt.Sprintf("h%d", i)}}
		options.HostConfig = &container.HostConfig{NetworkMode: "none"}
		if _, err := api.ContainerCreate(t.Context(), options); err != nil {
			t.Fatal(err)
		}
	}
	for _, i := range []int{0, 99, 199} {
		e.Do(t, "start", fmt.Sprintf("c%d", i))
	}
	o := opener(t)
	for _, i := range []int{199, 99, 0} {
		began := time.Now()
		r, _ := open(t, o, fmt.Sprintf("docker://c%d", i))
		t.Logf("found in %v", time.Since(began))
		answers(t, r, fmt.Sprintf("h%d", i))
	}
	if _, err := tryOpen(t, o, "docker://c100", nil); !errors.Is(err, porthole.ErrNotRunning) {
		t.Errorf("one that does not run: %v", err)
	}
}

// A user who may not use the engine is told which group may.
func testPermission(t *testing.T, e *testenv.Engine, _ string) {
	if err := os.Chmod(e.Dir, 0o711); err != nil {
		t.Fatal(err)
	}
	testenv.AsUser(t, "^TestAsOrdinaryUser$")
}

// TestAsOrdinaryUser is part of testPermission.
func TestAsOrdinaryUser(t *testing.T) {
	if os.Getuid() != testenv.UserID {
		return
	}
	var engine *porthole.EngineError
	if _, err := tryOpen(t, opener(t), "docker://web", nil); !errors.Is(err, porthole.ErrEnginePermission) || !errors.As(err, &engine) || engine.Group != "nogroup" {
		t.Errorf("%v, group %+v", err, engine)
	}
}
