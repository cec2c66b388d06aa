package demo

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// limits are the settings by which distributions keep ordinary users from user namespaces, with the value that does:
// of Debian's kernels, of any kernel (0 on RHEL 7), and of AppArmor (1 on Ubuntu since 23.10, where the namespace
// is made, and everything in it refused).
var limits = []struct{ setting, value string }{
	{"kernel.unprivileged_userns_clone", "0"},
	{"user.max_user_namespaces", "0"},
	{"kernel.apparmor_restrict_unprivileged_userns", "1"},
}

// explainUserNamespaces adds the setting of the kernel that explains an error of a pod in a user namespace; sysctls is
// /proc/sys.
func explainUserNamespaces(sysctls string, err error) error {
	refused := errors.Is(err, os.ErrPermission) || errors.Is(err, unix.ENOSPC) || errors.Is(err, errEndedAtStart)
	if !refused {
		return err
	}
	for _, limit := range limits {
		value, failed := os.ReadFile(filepath.Join(sysctls, strings.ReplaceAll(limit.setting, ".", "/")))
		if failed == nil && strings.TrimSpace(string(value)) == limit.value {
			return &SettingError{Setting: limit.setting, Value: limit.value, Err: err}
		}
	}
	return err
}
