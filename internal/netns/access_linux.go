package netns

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// AccessError says why the kernel keeps the files of a process from this one. It is an
// os.ErrPermission.
type AccessError struct {
	PID     int
	Missing string // what this process would need
}

func (e *AccessError) Error() string {
	return fmt.Sprintf("not permitted to look into process %d: %s", e.PID, e.Missing)
}

// Is reports that it is os.ErrPermission.
func (e *AccessError) Is(err error) bool { return err == os.ErrPermission }

// explainAccess replaces a refusal to open what belongs to the process by one that says what is
// missing. The rules are those of ptrace(2), "Ptrace access mode checking".
func (p *process) explainAccess(err error) error {
	if !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EPERM) {
		return err
	}
	theirs, failed := readBelow(p.dir, "status")
	if failed != nil {
		return err
	}
	mine, failed := os.ReadFile("/proc/thread-self/status")
	if failed != nil {
		return err
	}
	return &AccessError{PID: p.pid, Missing: missingFor(parseIdentity(theirs), parseIdentity(mine))}
}

// identity is what decides about access to a process.
type identity struct {
	uids, gids           []string // real, effective, saved and of the file system
	permitted, effective uint64   // capabilities
}

func parseIdentity(status []byte) (id identity) {
	for line := range bytes.Lines(status) {
		key, values, _ := strings.Cut(string(line), ":")
		switch fields := strings.Fields(values); {
		case key == "Uid":
			id.uids = fields
		case key == "Gid":
			id.gids = fields
		case key == "CapPrm" && len(fields) == 1:
			id.permitted, _ = strconv.ParseUint(fields[0], 16, 64)
		case key == "CapEff" && len(fields) == 1:
			id.effective, _ = strconv.ParseUint(fields[0], 16, 64)
		}
	}
	return id
}

// missingFor says what keeps one process from looking into another.
func missingFor(theirs, mine identity) string {
	const own = 1 // the effective one
	if len(mine.uids) <= own || len(mine.gids) <= own {
		return "the kernel refuses it"
	}
	for _, uid := range theirs.uids[:min(len(theirs.uids), 3)] {
		if uid != mine.uids[own] {
			return fmt.Sprintf("it runs as user %s, and porthole as user %s", uid, mine.uids[own])
		}
	}
	for _, gid := range theirs.gids[:min(len(theirs.gids), 3)] {
		if gid != mine.gids[own] {
			return fmt.Sprintf("it runs in group %s, and porthole in group %s", gid, mine.gids[own])
		}
	}
	if more := theirs.permitted &^ mine.effective; more != 0 {
		return "it has capabilities that porthole lacks: " + capabilityNames(more)
	}
	return "it is protected (PR_SET_DUMPABLE, or a security module), which takes the capability SYS_PTRACE"
}

// capabilityNames are the names of a set of capabilities, as securityContext.capabilities has them.
func capabilityNames(set uint64) string {
	var names []string
	for i := range 64 {
		switch {
		case set&(1<<i) == 0:
		case i < len(capabilities):
			names = append(names, capabilities[i])
		default:
			names = append(names, strconv.Itoa(i))
		}
	}
	return strings.Join(names, ", ")
}

// capabilities are the names of capabilities(7), by their numbers.
var capabilities = []string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP", "LINUX_IMMUTABLE",
	"NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT",
	"SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE",
	"AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ",
	"PERFMON", "BPF", "CHECKPOINT_RESTORE",
}
