package netns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// helperName is that of a copy of the helper which is installed: beside this program, or in ../libexec from there.
const helperName = "porthole-enter"

// helperTime bounds the wait for an answer of a helper, which takes microseconds.
const helperTime = 10 * time.Second

// helper is a process that makes sockets in network namespaces which this one may not enter: see enter/enter.c. It
// ends when its channel is closed, so also when this process dies. Between requests it keeps no network
// namespace alive.
type helper struct {
	process *os.Process
	channel *os.File
	asking  sync.Mutex // the channel has one request at a time

	// user is the user namespace that it is in; zero for an installed helper, which enters by its capabilities.
	user ID
	// users are the Namespaces that have it; guarded by helpers.
	users int
}

// helpers are the helpers of this process, one for each user namespace: rootless engines keep all containers in one.
var helpers struct {
	sync.Mutex
	byUser map[ID]*helper
}

// helperOf returns the helper in a user namespace, and starts it if there is none. Whoever gets it releases it.
func helperOf(user ID, start func() (*helper, error)) (*helper, error) {
	helpers.Lock()
	defer helpers.Unlock()
	h := helpers.byUser[user]
	if h == nil {
		var err error
		if h, err = start(); err != nil {
			return nil, err
		}
		h.user = user
		if helpers.byUser == nil {
			helpers.byUser = map[ID]*helper{}
		}
		helpers.byUser[user] = h
	}
	h.users++
	return h, nil
}

// release gives a helper back, which nobody else gets any more if it is of no use. The last one ends it.
func (h *helper) release(useless bool) error {
	helpers.Lock()
	defer helpers.Unlock()
	h.users--
	if (useless || h.users == 0) && helpers.byUser[h.user] == h {
		delete(helpers.byUser, h.user)
	}
	if h.users > 0 {
		return nil
	}
	return h.Close()
}

var (
	// errHelperEnded means that a helper has ended, as when somebody has killed it: another one can be started.
	errHelperEnded = errors.New("the helper has ended")
	// errNoPrivileges means that the helper that is installed has no capabilities.
	errNoPrivileges = errors.New("the helper has no capabilities")
)

// startHelper starts a helper in a user namespace.
func startHelper(user *os.File) (*helper, error) {
	program, err := helperFile()
	if err == nil {
		defer program.Close()
		// The kernel resolves the path in the new process, where it is descriptor 5. There is no folder that
		// could be mounted noexec.
		var h *helper
		if h, err = runHelper("/proc/self/fd/5", user, program); err == nil {
			return h, nil
		}
	}
	// As with vm.memfd_noexec, or on other processors.
	if path := installedHelper(); path != "" {
		return runHelper(path, user)
	}
	return nil, fmt.Errorf("start %s: %w", helperName, err)
}

// runHelper executes the helper with files at descriptor 4 and up.
func runHelper(path string, files ...*os.File) (*helper, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	near, far := os.NewFile(uintptr(pair[0]), "helper"), os.NewFile(uintptr(pair[1]), "helper")
	defer far.Close()
	timeout := unix.NsecToTimeval(int64(helperTime))
	if err := unix.SetsockoptTimeval(pair[0], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		near.Close()
		return nil, os.NewSyscallError("setsockopt", err)
	}
	process, err := os.StartProcess(path, []string{helperName}, &os.ProcAttr{
		Dir:   "/",
		Env:   []string{},
		Files: append([]*os.File{nil, nil, nil, far}, files...),
		Sys:   &syscall.SysProcAttr{Setsid: true}, // the terminal's Ctrl-C is not for it
	})
	if err != nil {
		near.Close()
		return nil, err
	}
	return &helper{process: process, channel: near}, nil
}

// helperFile returns the helper's program in memory.
func helperFile() (*os.File, error) {
	if helperProgram == nil {
		return nil, fmt.Errorf("%w on this processor", ErrUnsupported)
	}
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate(helperName, flags|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3 all can be executed
		fd, err = unix.MemfdCreate(helperName, flags)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), helperName)
	if _, err = f.Write(helperProgram); err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// installedHelper returns the path of the helper that is installed, or "".
func installedHelper() string {
	self, err := os.Executable()
	if err != nil {
		return ""
	}
	for _, folder := range []string{".", "../libexec"} {
		path := filepath.Join(filepath.Dir(self), folder, helperName)
		if unix.Access(path, unix.X_OK) == nil {
			return path
		}
	}
	return ""
}

// The steps that an answer of a helper names, as in enter/enter.c.
const (
	stepDone = iota
	stepJoinUser
	stepEnter
	stepHost
	stepRefused
	stepSocket
)

// mostSockets is how many an answer can have, as in enter/enter.c.
const mostSockets = 16

// sockets makes sockets in the network namespace that a file stands for, or a pidfd: at least one, and at most as many
// as are asked for. The error wraps errHelperEnded if it can be tried again with another helper.
func (h *helper) sockets(where *os.File, domain, kind, protocol, count int) (fds []int, err error) {
	var request []byte
	for _, number := range []int{domain, kind, protocol, count} {
		request = binary.NativeEndian.AppendUint32(request, uint32(number))
	}
	raw, err := where.SyscallConn() // and not Fd, which would make the descriptor blocking
	if err != nil {
		return nil, err
	}
	h.asking.Lock()
	defer h.asking.Unlock()
	channel := int(h.channel.Fd())
	if failed := raw.Control(func(fd uintptr) {
		err = unix.Sendmsg(channel, request, unix.UnixRights(int(fd)), nil, unix.MSG_NOSIGNAL)
	}); failed != nil {
		return nil, failed
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errHelperEnded, os.NewSyscallError("sendmsg", err))
	}
	if fds, err = receiveSockets(channel); errors.Is(err, errHelperEnded) {
		_ = unix.Shutdown(channel, unix.SHUT_RDWR) // a late answer is not for the next one who asks
	}
	return fds, err
}

// receiveSockets receives a helper's answer.
func receiveSockets(channel int) (fds []int, err error) {
	var answer [8]byte
	control := make([]byte, unix.CmsgSpace(4*mostSockets))
	var n, size int
	for {
		n, size, _, _, err = unix.Recvmsg(channel, answer[:], control, unix.MSG_CMSG_CLOEXEC)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil || n != len(answer) {
		return nil, fmt.Errorf("%w: %w", errHelperEnded, os.NewSyscallError("recvmsg", err))
	}
	step, code := binary.NativeEndian.Uint32(answer[:]), unix.Errno(binary.NativeEndian.Uint32(answer[4:]))
	if step != stepDone {
		return nil, helperError(step, code)
	}
	messages, err := unix.ParseSocketControlMessage(control[:size])
	if err == nil && len(messages) == 1 {
		fds, err = unix.ParseUnixRights(&messages[0])
	}
	if err != nil || len(fds) == 0 {
		return nil, fmt.Errorf("%w: it has sent no socket", errHelperEnded)
	}
	return fds, nil
}

// helperError is what kept a helper from making a socket.
func helperError(step uint32, code unix.Errno) error {
	switch {
	case step == stepHost:
		return fmt.Errorf("%w: it is the host's own, which %s does not enter", ErrPermission, helperName)
	case step == stepSocket:
		return os.NewSyscallError("socket", code)
	case step == stepRefused:
		return fmt.Errorf("%s makes no such socket: %w", helperName, code)
	case code == unix.ESRCH:
		return ErrExited
	case code == unix.EBADF && step == stepJoinUser: // there was none to join
		return errNoPrivileges
	case code == unix.EPERM:
		return ErrPermission
	}
	return os.NewSyscallError("setns", code)
}

// Close ends the helper, and waits for that.
func (h *helper) Close() error {
	err := h.channel.Close()
	_ = h.process.Kill()
	_, waited := h.process.Wait()
	return errors.Join(err, waited)
}
