package portforward

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"porthole.dev/porthole/internal/testenv"
)

// What the kernel says of a sleep is seen: in a time namespace whose machine has slept an
// hour longer (time_namespaces(7)).
func TestAsleep(t *testing.T) {
	if os.Getenv("PORTHOLE_TEST_ASLEEP") != "" {
		fmt.Println(asleep())
		return
	}
	testenv.Root(t)
	if _, err := os.Stat("/proc/self/ns/time"); err != nil {
		testenv.Lacking(t, "time namespaces (Linux 5.6)")
	}
	cmd := exec.Command("unshare", "--time", "--boottime", "3600", "--fork", os.Args[0], "-test.run=^TestAsleep$")
	cmd.Env = append(os.Environ(), "PORTHOLE_TEST_ASLEEP=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	said, _, _ := strings.Cut(string(out), "\n")
	there, err := time.ParseDuration(said)
	if err != nil {
		t.Fatal(err)
	}
	if more := (there - asleep()).Round(time.Second); more != time.Hour {
		t.Errorf("an hour's sleep is seen as %v", more)
	}
}
