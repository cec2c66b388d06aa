package local

import (
	"fmt"
	"math/rand/v2"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"

	"porthole.dev/porthole/internal/testenv"
)

// spinners take all processors.
const spinners = 4

// TestAllIsTold has new listeners of a container told soon, natively and through an agent on another host, by a machine that is
// idle and by one that is busy. On an idle one they are told within a second; the bound is for a machine that runs other tests.
func TestAllIsTold(t *testing.T) {
	server := otherHost(t)
	for name, command := range map[string]func(...string) *exec.Cmd{
		"native": func(args ...string) *exec.Cmd { return exec.Command(porthole, args...) },
		"agent":  func(args ...string) *exec.Cmd { return overSSH(t, server, append(args, "--host", "ssh://box")...) },
	} {
		for _, load := range []int{0, spinners} {
			t.Run(fmt.Sprintf("%s beside %d", name, load), func(t *testing.T) {
				spin(t, load)
				pod := testenv.NewPod(t)
				p := startCommand(t, command("forward", "--all", "--address", "127.0.0.1", fmt.Sprintf("pid://%d", pod.PID)))
				newListener(t, pod, p) // after which it watches
				var took []time.Duration
				for range 5 {
					time.Sleep(rand.N(500 * time.Millisecond)) // so that they come at any time between two looks
					took = append(took, newListener(t, pod, p))
				}
				slices.Sort(took)
				t.Logf("told after %v in the median, %v at most", took[len(took)/2], took[len(took)-1])
				if median := took[len(took)/2]; median > 10*time.Second {
					t.Errorf("a new listener is told after %v", median)
				}
				p.interrupt(t)
			})
		}
	}
}

// newListener returns how long it takes until a new listener is told.
func newListener(t *testing.T, pod *testenv.Pod, p *program) time.Duration {
	t.Helper()
	l := pod.Listen(t, "127.0.0.1:0")
	began := time.Now()
	p.await(t, fmt.Sprintf(`^(Forwarding) from 127\S+ -> %d$`, testenv.Port(l)))
	return time.Since(began)
}

// spin runs n programs that do nothing, without rest, until the test ends.
func spin(t *testing.T, n int) {
	for range n {
		cmd := exec.Command("sh", "-c", "while :; do :; done")
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	}
}
