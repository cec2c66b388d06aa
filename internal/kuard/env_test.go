package kuard

import (
	"net/http"
	"os"
	"slices"
	"testing"
)

func TestEnv(t *testing.T) {
	t.Setenv("KUARD_TEST", "a=b <c>")
	s := serve(t, &Server{Version: "v1"})
	env := parse[environment](t, s.want(http.StatusOK, "GET", "/env/api", ""))
	if env.Env["KUARD_TEST"] != "a=b <c>" {
		t.Errorf("KUARD_TEST is %q", env.Env["KUARD_TEST"])
	}
	if !slices.Equal(env.CommandLine, os.Args) || env.PID != os.Getpid() || env.Version != "v1" {
		t.Errorf("got %+v", env)
	}
	if env.Started.IsZero() || env.Addresses == nil {
		t.Errorf("started %v, addresses %v", env.Started, env.Addresses)
	}
}
