package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// cgroupName is the cluster's own cgroup, directly below the root of every hierarchy: the components are in
// `components` below it, the pods in `kubepods`. Membership is inherited and nothing in a pod can leave,
// so all that the cluster started is found here, even after a crash.
const cgroupName = "porthole-cluster"

// hierarchies lists the mount points: one for cgroup v2, one for each controller of v1, both for a hybrid.
func hierarchies() ([]string, error) {
	all, err := mounts()
	if err != nil {
		return nil, err
	}
	var points []string
	for _, m := range all {
		if m.FSType == "cgroup" || m.FSType == "cgroup2" {
			points = append(points, m.Point)
		}
	}
	if len(points) == 0 {
		return nil, errors.New("find cgroups: none are mounted\nhint: mount cgroup2 at /sys/fs/cgroup")
	}
	return points, nil
}

// makeCgroups makes the cluster's cgroup everywhere, as the kubelet wants its cgroupRoot,
// and the components' in the hierarchy that holds them.
func makeCgroups() error {
	points, err := hierarchies()
	if err != nil {
		return err
	}
	for _, point := range points {
		if err := os.MkdirAll(filepath.Join(point, cgroupName), 0o755); err != nil {
			return fmt.Errorf("make cgroup: %w", err)
		}
		enableControllers(point)
	}
	if err := os.MkdirAll(componentFolder(points), 0o755); err != nil {
		return fmt.Errorf("make cgroup: %w", err)
	}
	return nil
}

// enableControllers hands every controller of a v2 hierarchy down to the cluster's cgroup, where the kubelet
// wants them all. One that cannot be handed down is left out; the kubelet's log names it, should it be needed.
// The v1 hierarchies have neither file.
func enableControllers(point string) {
	controllers, err := os.ReadFile(filepath.Join(point, "cgroup.controllers"))
	if err != nil {
		return
	}
	for name := range strings.FieldsSeq(string(controllers)) {
		os.WriteFile(filepath.Join(point, "cgroup.subtree_control"), []byte("+"+name), 0o644)
	}
}

// componentFolder picks a hierarchy where a new cgroup takes processes at once:
// one of cpuset would first need its processors set.
func componentFolder(points []string) string {
	chosen := points[0]
	for _, point := range points {
		if filepath.Base(point) == "pids" {
			chosen = point
		}
	}
	return filepath.Join(chosen, cgroupName, "components")
}

// componentCgroup is the file to write a component's PID to.
func componentCgroup() (string, error) {
	points, err := hierarchies()
	if err != nil {
		return "", err
	}
	return filepath.Join(componentFolder(points), "cgroup.procs"), nil
}

// clearCgroups kills every process in the cluster's cgroups, waits for the last one and removes the cgroups.
func clearCgroups(ctx context.Context) error {
	points, err := hierarchies()
	if err != nil {
		return err
	}
	for {
		left := 0
		for _, point := range points {
			killed, err := killCgroup(filepath.Join(point, cgroupName))
			if err != nil {
				return err
			}
			left += killed
		}
		if left == 0 {
			return removeCgroups(points)
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return fmt.Errorf("end the cluster's processes: %d are left: %w", left, err)
		}
	}
}

// killCgroup kills all in a cgroup and below it, and tells how many there were.
func killCgroup(dir string) (int, error) {
	count := 0
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || filepath.Base(path) != "cgroup.procs" {
			return nil
		}
		killed, err := killMembers(path)
		count += killed
		return err
	})
	return count, err
}

// killMembers reads the list again once it holds a process, to be sure which one it holds.
func killMembers(procs string) (int, error) {
	pids := members(procs)
	count := 0
	for pid := range pids {
		held, err := os.FindProcess(pid)
		if err != nil {
			continue
		}
		if members(procs)[pid] {
			count++
			err = held.Signal(syscall.SIGKILL)
		}
		held.Release()
		if err != nil && !errors.Is(err, os.ErrProcessDone) {
			return count, fmt.Errorf("kill %d: %w", pid, err)
		}
	}
	return count, nil
}

// members is empty for a cgroup that is gone. Zombies are members no longer.
func members(procs string) map[int]bool {
	data, err := os.ReadFile(procs)
	if err != nil {
		return nil
	}
	pids := map[int]bool{}
	for field := range strings.FieldsSeq(string(data)) {
		if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
			pids[pid] = true
		}
	}
	return pids
}

func removeCgroups(points []string) error {
	for _, point := range points {
		if err := removeFolders(filepath.Join(point, cgroupName)); err != nil {
			return fmt.Errorf("remove cgroup: %w", err)
		}
	}
	return nil
}

// removeFolders removes a tree of folders, the deepest first, and no file:
// those of a cgroup go with it, and those of anything else are not ours.
func removeFolders(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if !entry.IsDir() {
			continue
		}
		if err := removeFolders(filepath.Join(dir, entry.Name())); err != nil {
			return err
		}
	}
	return os.Remove(dir)
}

// pause waits between two looks at something that takes a while.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
