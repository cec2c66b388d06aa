package demo

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// The file descriptors that spawn hands to init.
const (
	setupFD = 3 // the read end of a pipe; its other end lives as long as the demo
	exeFD   = 4 // a detached mount of the program's file
)

// programPath is where the program is inside the pod.
const programPath = "/usr/local/bin/porthole"

// setup is what init has to know, sent once the pod's network is there.
type setup struct {
	Root     string // an empty directory, to mount the file system on
	User     bool   // the pod is in a user namespace of an ordinary user's
	Hostname string
	Files    map[string]string // path below Root to content
	Args     []string          // the application's, without the program's name
	Env      []string
}

// Init is the pod's process 1 until it becomes the application; it returns
// only if it fails. The program calls it for [InitCommand]. It reads what to
// do from a pipe that [Start] made, and refuses to run outside of a pod.
func Init() error {
	// Capabilities and the parent-death signal are the thread's own.
	runtime.LockOSThread()
	if os.Getpid() != 1 {
		return errors.New(InitCommand + " is not for use by hand: porthole demo starts it inside its pod")
	}
	// What the demo inherited without close-on-exec ends here.
	if err := unix.CloseRange(setupFD, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("pod init: close inherited files: %w", err)
	}
	var s setup
	pipe := os.NewFile(setupFD, "setup")
	if err := json.NewDecoder(pipe).Decode(&s); err != nil {
		return fmt.Errorf("pod init: read the setup: %w", err)
	}
	return fmt.Errorf("pod init: %w", s.become(pipe))
}

// become makes the process the application; it returns only an error.
func (s setup) become(pipe *os.File) error {
	if err := unix.Sethostname([]byte(s.Hostname)); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	if s.User {
		if err := loopbackUp(); err != nil {
			return fmt.Errorf("set lo up: %w", err)
		}
	}
	if err := enterRoot(s.Root, s.Files, s.User); err != nil {
		return err
	}
	if err := dropPrivileges(!s.User); err != nil {
		return err
	}
	if err := dieWithParent(pipe); err != nil {
		return err
	}
	err := unix.Exec(programPath, append([]string{programPath}, s.Args...), s.Env)
	return fmt.Errorf("execute %s: %w", programPath, err)
}

// loopbackUp sets lo up, where nobody outside can (netdevice(7)).
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
}

// dieWithParent sets the parent-death signal again, which a change of user
// clears (PR_SET_PDEATHSIG(2const)). The parent may have died in between;
// then its end of the pipe is closed, and poll reports that unasked.
func dieWithParent(pipe *os.File) error {
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("set the parent-death signal: %w", err)
	}
	poll := []unix.PollFd{{Fd: int32(pipe.Fd())}}
	if _, err := unix.Poll(poll, 0); err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("look after the parent: %w", err)
	}
	if poll[0].Revents != 0 {
		return errors.New("the demo has ended")
	}
	return nil
}
