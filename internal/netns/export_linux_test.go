package netns

import (
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// OpenPIDOn opens as OpenPID does on kernels of a version, as far as it matters.
func OpenPIDOn(version string, pid int) (*Namespace, error) {
	k := runningKernel()
	switch version {
	case "5.9": // knows no PIDFD_NONBLOCK
		k.pidfdOpen = func(pid, flags int) (int, error) {
			if flags != 0 {
				return -1, unix.EINVAL
			}
			return unix.PidfdOpen(pid, 0)
		}
	case "5.7": // setns takes no pidfd
		k.setns = setnsWithoutPidfd
	case "5.2": // no pidfd_open
		k.pidfdOpen = func(int, int) (int, error) { return -1, unix.ENOSYS }
		k.setns = setnsWithoutPidfd
	}
	return openPID(k, pid)
}

func setnsWithoutPidfd(fd, nstype int) error {
	if link, _ := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd)); strings.Contains(link, "pidfd") {
		return unix.EINVAL
	}
	return unix.Setns(fd, nstype)
}

// HelperProgram is the program of helpers for this processor.
func HelperProgram() []byte { return helperProgram }

// WithoutHelperProgram has no helper run from memory, as with vm.memfd_noexec=2, until the function that it returns is called.
func WithoutHelperProgram() (restore func()) {
	program := helperProgram
	helperProgram = nil
	return func() { helperProgram = program }
}

// HelperName is what a helper is called where it is installed.
const HelperName = helperName

// OnKernelWithout has what listens asked for as if the kernel lacked its modules for some kinds of sockets: by protocols and families
// that no kernel lists, or by a netlink(7) protocol that no kernel has, until the function that it returns is called.
func OnKernelWithout(what string) (restore func()) {
	before, protocol := dumps, sockDiag
	dumps = slices.Clone(dumps)
	for i := range dumps {
		switch {
		case what == "sock_diag":
			sockDiag = 31
		case strings.HasPrefix(dumps[i].module, what) && dumps[i].family == unix.AF_UNIX:
			dumps[i].family = unix.AF_DECnet
		case strings.HasPrefix(dumps[i].module, what):
			dumps[i].protocol = unix.IPPROTO_ENCAP
		}
	}
	return func() { dumps, sockDiag = before, protocol }
}
