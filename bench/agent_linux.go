package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// viaAgent are the flags by which porthole goes through an agent in the pod.
func (c *cluster) viaAgent() []string {
	return []string{"--via", "agent", "--agent-image", c.agentImage, "--agent-image-pull-policy", "Never"}
}

// agent measures an agent in the pod of a stock node beside what reaches the pod without one.
func (b *bench) agent(ctx context.Context) error {
	return b.throughAgent(ctx, b.agentBurst, b.agentAnswers, b.agentStall, b.agentBulk, b.agentStart)
}

// agentSoaked has an agent carry many connections.
func (b *bench) agentSoaked(ctx context.Context) error { return b.throughAgent(ctx, b.agentSoak) }

// agentDownloads measures of that the downloads alone.
func (b *bench) agentDownloads(ctx context.Context) error { return b.throughAgent(ctx, b.agentBulk) }

// throughAgent takes measurements of a porthole that goes through an agent.
func (b *bench) throughAgent(ctx context.Context, measures ...func(context.Context, *peer) error) error {
	if !b.cluster.given() || b.cluster.agentImage == "" {
		fmt.Fprintln(os.Stderr, "agent: no -agent-image given: left out")
		return nil
	}
	agent, err := b.startClient(ctx, b.porthole, append([]string{"forward", "pod/" + b.cluster.pod}, b.cluster.viaAgent()...))
	if err != nil {
		return err
	}
	defer agent.close()
	for _, measure := range measures {
		if err := measure(ctx, agent); err != nil {
			return err
		}
	}
	return nil
}

// agentBurst has 200 connections come at once.
func (b *bench) agentBurst(ctx context.Context, agent *peer) error {
	kubectl, err := b.startClient(ctx, b.cluster.kubectls[0], []string{"port-forward", "pod/" + b.cluster.pod})
	if err != nil {
		return err
	}
	defer kubectl.close()
	kubectl.name = b.nameOf(b.cluster.kubectls[0])
	times, err := b.alternate([]dialer{agent.dial, kubectl.dial}, func(d dialer) (float64, error) { return burst(d, 200) })
	if err != nil {
		return err
	}
	b.compare(kubectl, "agent: 200 at once, ms", times, "%.0f", "at most 0.5", func(r float64) bool { return r <= 0.5 })
	return nil
}

// agentAnswers tells whether answers come that follow the end of a request.
func (b *bench) agentAnswers(_ context.Context, agent *peer) error {
	for _, c := range b.conversations() {
		came := answered(agent.dial, c.hold)
		b.add(row{"agent: " + c.name, came, "-", "-", "answered", came == "answered"})
	}
	return nil
}

// agentStall has a reader stop beside 299 others.
func (b *bench) agentStall(_ context.Context, agent *peer) error {
	return b.stallOf299("agent: echo p99 of 299 beside a stalled reader in one tunnel, ms", agent.dial)
}

// agentBulk compares downloads with those that the stock node carries without an agent.
func (b *bench) agentBulk(ctx context.Context, agent *peer) error {
	stock, err := b.startClient(ctx, b.porthole, []string{"forward", "pod/" + b.cluster.pod, "--via", "stock"})
	if err != nil {
		return err
	}
	defer stock.close()
	stock.name = "without an agent"
	rates, err := b.alternate([]dialer{agent.dial, stock.dial}, b.download)
	if err != nil {
		return err
	}
	b.compare(stock, "agent: download, MB/s", rates, "%.0f", "at least 0.7", func(r float64) bool { return r >= 0.7 })
	return nil
}

// agentStart measures from the command to the first byte: to pods that have no agent yet, and to
// one that has, beside the stock way.
func (b *bench) agentStart(ctx context.Context, _ *peer) error {
	var fresh, there, stock []float64
	for run := range b.runs {
		pod := fmt.Sprintf("%s-fresh-%d", b.cluster.pod, run)
		if err := b.runPod(ctx, pod); err != nil {
			return err
		}
		for _, way := range []struct {
			seconds *[]float64
			flags   []string
		}{{&fresh, b.cluster.viaAgent()}, {&there, b.cluster.viaAgent()}, {&stock, []string{"--via", "stock"}}} {
			began := time.Now()
			p, err := b.startClient(ctx, b.porthole, append([]string{"forward", "pod/" + pod}, way.flags...))
			if err != nil {
				return err
			}
			c, err := echoed(p.dial)
			*way.seconds = append(*way.seconds, time.Since(began).Seconds())
			if err == nil {
				err = c.Close()
			}
			p.close()
			if err != nil {
				return err
			}
		}
		if err := b.deletePod(ctx, pod); err != nil {
			return err
		}
	}
	took, ratio := median(fresh), median(ratios(there, stock))
	b.add(row{"agent: command to first byte where none is yet, s", fmt.Sprintf("%.2f", took), "-", "-", "at most 3 s", took <= 3})
	b.add(row{"agent: command to first byte where one is, s", fmt.Sprintf("%.3f", median(there)), fmt.Sprintf("%.3f (without an agent)", median(stock)),
		fmt.Sprintf("%.2f", ratio), "at most 1.5", ratio <= 1.5})
	return nil
}

// runPod runs another pod like the cluster's, and returns when it is ready.
func (b *bench) runPod(ctx context.Context, name string) error {
	kubectl := b.cluster.kubectls[0]
	image, err := exec.CommandContext(ctx, kubectl, "get", "pod", b.cluster.pod, "-o", "jsonpath={.spec.containers[0].image}").Output()
	if err != nil {
		return fmt.Errorf("find the image of pod %s: %w", b.cluster.pod, err)
	}
	if out, err := exec.CommandContext(ctx, kubectl, "run", name, "--image", string(image), "--image-pull-policy", "Never").CombinedOutput(); err != nil {
		return fmt.Errorf("run pod %s: %w: %s", name, err, out)
	}
	if out, err := exec.CommandContext(ctx, kubectl, "wait", "--for=condition=Ready", "pod/"+name, "--timeout=60s").CombinedOutput(); err != nil {
		return fmt.Errorf("wait for pod %s: %w: %s", name, err, out)
	}
	return nil
}

func (b *bench) deletePod(ctx context.Context, name string) error {
	if out, err := exec.CommandContext(ctx, b.cluster.kubectls[0], "delete", "pod", name, "--now").CombinedOutput(); err != nil {
		return fmt.Errorf("delete pod %s: %w: %s", name, err, out)
	}
	return nil
}

// agentSoak has an agent carry many connections, and looks at it and at its client.
func (b *bench) agentSoak(ctx context.Context, _ *peer) error {
	agent, err := processOf("agent\x00--listen")
	if err != nil {
		return err
	}
	before, err := footprintOf(agent)
	if err != nil {
		return err
	}
	if err := b.soakBy(ctx, "agent, its client", b.cluster.viaAgent()); err != nil {
		return err
	}
	after, err := footprintOf(agent)
	if err != nil {
		return err
	}
	held := after.descriptors <= before.descriptors+2 && after.threads <= before.threads+4
	b.add(row{"agent: after the soak: MiB, descriptors, threads", after.String(), before.String() + " (before)", "-", "flat", held})
	return nil
}

func (f footprint) String() string {
	return fmt.Sprintf("%d, %d, %d", f.rss>>10, f.descriptors, f.threads)
}

// processOf finds the latest process of a pod whose command line has a part.
func processOf(part string) (pid int, err error) {
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range paths {
		line, _ := os.ReadFile(path)
		cgroup, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cgroup"))
		if !strings.Contains(string(cgroup), "kubepods") {
			continue
		}
		if n, _ := strconv.Atoi(filepath.Base(filepath.Dir(path))); strings.Contains(string(line), part) && n > pid && n != os.Getpid() {
			pid = n
		}
	}
	if pid == 0 {
		return 0, fmt.Errorf("no process has %q in its command line", part)
	}
	return pid, nil
}
