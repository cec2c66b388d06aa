package main

import (
	"maps"
	"path/filepath"
	"slices"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"porthole.dev/porthole/internal/testenv"
)

// TestEngineScripts runs testdata/engines with Docker's engine and podman's, and their own commands: `docker ps`. A container of
// $IMAGE has busybox and no network; `serve docker NAME [OPTION ...]` runs one that answers with NAME at port 8080 of its
// loopback. $PORTHOLE is a porthole for helper containers. All scripts share the engines, so each has names of its own, and
// helper containers are one script's.
func TestEngineScripts(t *testing.T) {
	t.Parallel() // beside TestScripts, for one waits half a minute
	engines := map[string]*testenv.Engine{"docker": testenv.NewDocker(t), "podman": testenv.NewPodman(t)}
	program := testenv.Porthole(t)
	commands := maps.Clone(scriptCommands)
	for name, e := range engines {
		commands[name] = func(ts *testscript.TestScript, neg bool, args []string) {
			out, err := e.Command(args...).CombinedOutput()
			_, _ = ts.Stdout().Write(out)
			if neg != (err != nil) {
				ts.Fatalf("%s %v: %v: %s", name, args, err, out)
			}
		}
	}
	commands["serve"] = func(ts *testscript.TestScript, _ bool, args []string) {
		run := slices.Concat([]string{"run", "-d", "--network", "none", "--name", args[1], "--hostname", args[1]}, args[2:], []string{testenv.Image}, testenv.Web)
		commands[args[0]](ts, false, run)
		within(ts, args[1]+" serves", func() bool { return engines[args[0]].Command("exec", args[1], "nc", "127.0.0.1", "8080").Run() == nil })
	}
	commands["unhelped"] = func(ts *testscript.TestScript, _ bool, _ []string) { // waits until all helper containers are gone
		within(ts, "no helper container is left", func() bool {
			out, err := engines["docker"].Command("ps", "-aq", "--filter", "label=porthole.dev/helper").Output()
			return err == nil && len(out) == 0
		})
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/engines",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOME", filepath.Join(env.WorkDir, ".home"))
			env.Setenv("IMAGE", testenv.Image)
			env.Setenv("PORTHOLE", program)
			env.Setenv("DOCKER_HOST", engines["docker"].Host)
			env.Setenv("CONTAINER_HOST", engines["podman"].Host)
			for _, none := range []string{"CONTAINERD_ADDRESS", "CONTAINER_RUNTIME_ENDPOINT"} {
				env.Setenv(none, "unix://"+filepath.Join(env.WorkDir, "none.sock"))
			}
			return nil
		},
		Cmds: commands,
	})
}
