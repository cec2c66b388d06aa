package target_test

import (
	"errors"
	"testing"

	"porthole.dev/porthole/internal/target"
)

func TestCheckEngine(t *testing.T) {
	elsewhere := target.Host{Name: "box"}
	for _, c := range []struct {
		target string
		host   target.Host
		want   error
	}{
		{"docker://web", target.Host{}, nil},
		{"podman://web", target.Host{}, nil},
		{"containerd://web", target.Host{}, target.ErrEngineContext},
		{"kuard", target.Host{}, target.ErrEngineContext},
		{"docker://web", elsewhere, target.ErrEngineContext},
	} {
		to, err := target.Parse(c.target)
		if err != nil {
			t.Fatal(err)
		}
		f := target.Forward{Target: to, Host: c.host, EngineContext: "colima"}
		if err := f.CheckEngine(); !errors.Is(err, c.want) {
			t.Errorf("%+v: %v", c, err)
		}
		f.EngineContext = ""
		if err := f.CheckEngine(); err != nil {
			t.Errorf("%+v without a context: %v", c, err)
		}
	}
	to, _ := target.Parse("docker://web")
	f := target.Forward{Target: to, Host: elsewhere, Via: target.ViaNative}
	if err := f.CheckVia(); !errors.Is(err, target.ErrHostVia) {
		t.Errorf("via native on another host: %v", err)
	}
}
