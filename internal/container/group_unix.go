//go:build unix

package container

import (
	"os"
	"os/user"
	"strconv"
	"strings"
	"syscall"
)

// groupOf returns the name of the group whose members may use a socket, or its number; "" if there is none but root's.
func groupOf(host string) string {
	info, err := os.Stat(strings.TrimPrefix(host, "unix://"))
	if err != nil || info.Mode().Perm()&0o060 != 0o060 {
		return ""
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || owner.Gid == 0 {
		return ""
	}
	id := strconv.FormatUint(uint64(owner.Gid), 10)
	if group, err := user.LookupGroupId(id); err == nil {
		return group.Name
	}
	return id
}
