package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// mount is one line of proc_pid_mountinfo(5).
type mount struct {
	Point  string
	FSType string
}

// unescapeMount undoes the octal escapes that mountinfo writes for characters which would split its fields.
func unescapeMount(field string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(field)
}

// mounts lists what this process sees mounted, in the order of mounting.
func mounts() ([]mount, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	var all []mount
	for line := range strings.Lines(string(data)) {
		// A variable number of optional fields ends with a dash; the type follows it.
		before, after, found := strings.Cut(line, " - ")
		head, tail := strings.Fields(before), strings.Fields(after)
		if found && len(head) >= 5 && len(tail) >= 1 {
			all = append(all, mount{Point: unescapeMount(head[4]), FSType: tail[0]})
		}
	}
	return all, nil
}

// unmountBelow unmounts all that lies below a folder, the latest first.
// It fails while anything is left: removing the folder then could remove what is mounted in it.
func unmountBelow(dir string) error {
	all, err := mounts()
	if err != nil {
		return err
	}
	var failed error
	for _, m := range slices.Backward(all) {
		if !strings.HasPrefix(m.Point, dir+string(filepath.Separator)) {
			continue
		}
		if err := unix.Unmount(m.Point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			failed = errors.Join(failed, fmt.Errorf("unmount %s: %w", m.Point, err))
		}
	}
	return failed
}
