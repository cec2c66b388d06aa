package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// stages are the processes behind the client, as comm(5) names them; "bench" is
// the server in the pod.
var stages = []string{"kube-apiserver", "kubelet", "containerd", "bench"}

// toll is what one download takes of each process, in CPU seconds.
type toll struct {
	client, reader, seconds float64
	behind                  []float64 // by stage
}

// way is one client to send a download through.
type way struct {
	name     string
	download func() (client, seconds float64, err error)
	tolls    []toll
}

// kubeChain tells who spends the processors' time on a download: the client, and
// each process of the stock chain behind it. It has a table of its own.
func (b *bench) kubeChain(ctx context.Context) error {
	ways, end, err := b.chainWays(ctx)
	if err != nil {
		return err
	}
	defer end()
	for run := range b.runs + 1 {
		for i := range ways {
			t, err := b.takeToll(&ways[i])
			if err != nil {
				return fmt.Errorf("%s: %w", ways[i].name, err)
			}
			if run > 0 { // the first warms up
				ways[i].tolls = append(ways[i].tolls, t)
			}
		}
	}
	b.printChain(ways)
	return nil
}

// chainWays are porthole and all kubectls with either protocol, and the floors.
func (b *bench) chainWays(ctx context.Context) (ways []way, end func(), err error) {
	var peers []*peer
	end = func() {
		for _, p := range peers {
			p.close()
		}
	}
	programs := append([]string{b.porthole}, b.cluster.kubectls...)
	for _, program := range programs {
		for _, webSockets := range []bool{true, false} {
			p, err := b.startForward(ctx, program, webSockets)
			if err != nil {
				end()
				return nil, nil, err
			}
			peers = append(peers, p)
			name := b.nameOf(program) + map[bool]string{true: ", WebSocket", false: ", SPDY"}[webSockets]
			ways = append(ways, way{name: name, download: func() (float64, float64, error) { return b.downloadBy(p) }})
		}
	}
	for _, rest := range []time.Duration{0, time.Millisecond} {
		name := "TLS and nothing else, SPDY"
		if rest > 0 {
			name += fmt.Sprintf(", a rest of %v before reads", rest)
		}
		ways = append(ways, way{name: name, download: func() (float64, float64, error) { return b.measureFloor(ctx, rest) }})
	}
	return ways, end, nil
}

// startForward starts a client that speaks the one protocol or the other.
func (b *bench) startForward(ctx context.Context, program string, webSockets bool) (*peer, error) {
	command := "port-forward"
	if program == b.porthole {
		command = "forward"
	}
	cmd := exec.CommandContext(ctx, program, command, "pod/"+b.cluster.pod)
	cmd.Env = append(os.Environ(), fmt.Sprintf("KUBECTL_PORT_FORWARD_WEBSOCKETS=%v", webSockets))
	cmd.Stderr = os.Stderr
	return b.startCommand(cmd)
}

// downloadBy downloads through a client.
func (b *bench) downloadBy(p *peer) (client, seconds float64, err error) {
	before := cpuSeconds(p.cmd.Process.Pid)
	rate, err := b.download(p.dial)
	return cpuSeconds(p.cmd.Process.Pid) - before, float64(b.bytes) / 1e6 / rate, err
}

func (b *bench) takeToll(w *way) (t toll, err error) {
	behind, reader := stageSeconds(), ownSeconds()
	if t.client, t.seconds, err = w.download(); err != nil {
		return t, err
	}
	t.reader = ownSeconds() - reader
	for i, after := range stageSeconds() {
		t.behind = append(t.behind, after-behind[i])
	}
	time.Sleep(200 * time.Millisecond) // what is left of it is not the next one's
	return t, nil
}

// stageSeconds is what the cluster's processes have used, by stage.
func stageSeconds() []float64 {
	used := make([]float64, len(stages))
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, path := range processes {
		cgroup, _ := os.ReadFile(filepath.Join(path, "cgroup"))
		if !strings.Contains(string(cgroup), "/porthole-cluster") {
			continue
		}
		comm, _ := os.ReadFile(filepath.Join(path, "comm"))
		pid, _ := strconv.Atoi(filepath.Base(path))
		for i, stage := range stages {
			if strings.TrimSpace(string(comm)) == stage {
				used[i] += cpuSeconds(pid)
			}
		}
	}
	return used
}

func (b *bench) printChain(ways []way) {
	gib := float64(b.bytes) / (1 << 30)
	of := func(w way, f func(toll) float64) float64 {
		var all []float64
		for _, t := range w.tolls {
			all = append(all, f(t))
		}
		return median(all)
	}
	fmt.Println("| CPU seconds a GiB | MB/s | client | reader | API server | kubelet | containerd | server | all of these | of the processors |")
	fmt.Println("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
	for _, w := range ways {
		fmt.Printf("| %s | %.0f | %.2f | %.2f |", w.name, of(w, func(t toll) float64 { return float64(b.bytes) / 1e6 / t.seconds }),
			of(w, func(t toll) float64 { return t.client / gib }), of(w, func(t toll) float64 { return t.reader / gib }))
		for i := range stages {
			fmt.Printf(" %.2f |", of(w, func(t toll) float64 { return t.behind[i] / gib }))
		}
		fmt.Printf(" %.2f | %.0f %% |\n", of(w, func(t toll) float64 { return t.sum() / gib }),
			of(w, func(t toll) float64 { return 100 * t.sum() / t.seconds / float64(runtime.NumCPU()) }))
	}
}

func (t toll) sum() float64 {
	sum := t.client + t.reader
	for _, s := range t.behind {
		sum += s
	}
	return sum
}
