package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"porthole.dev/porthole/internal/testenv"
)

// TestKubectlFlags: whatever flag kubectl's port-forward takes is taken here, by the
// same letter, and with a value where that has one.
func TestKubectlFlags(t *testing.T) {
	bin := os.Getenv("PORTHOLE_CLUSTER_BIN")
	if bin == "" {
		testenv.Lacking(t, "kubectl: set PORTHOLE_CLUSTER_BIN to a folder with it")
	}
	flags := newForward().Flags()
	taken := regexp.MustCompile(`(?m)^ +(?:-(\w), )?--([\w-]+)=(.*):$`)
	number := 0
	for _, args := range [][]string{{"options"}, {"port-forward", "--help"}} {
		cmd := exec.Command(filepath.Join(bin, "kubectl"), args...)
		cmd.Env = append(os.Environ(), "KUBECTL_KUBERC=false")
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("kubectl %v: %v", args, err)
		}
		for _, m := range taken.FindAllStringSubmatch(string(out), -1) {
			letter, name, value := m[1], m[2], m[3]
			number++
			f := flags.Lookup(name)
			switch without := value == "false" || value == "true"; {
			case f == nil:
				t.Errorf("--%s is not taken", name)
			case f.Shorthand != letter:
				t.Errorf("--%s is -%s, and -%s for kubectl", name, f.Shorthand, letter)
			case (f.NoOptDefVal != "") != without:
				t.Errorf("--%s stands without a value: %v, for kubectl %v", name, f.NoOptDefVal != "", without)
			}
		}
	}
	if number < 30 {
		t.Errorf("kubectl told of %d flags only", number)
	}
}
