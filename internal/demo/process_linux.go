package demo

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// podProcess is the pod's process 1: at first its init, then the application.
type podProcess struct {
	pod    *Pod
	cmd    *exec.Cmd
	setup  *os.File // the end that writes; init reads file descriptor 3
	stderr *tail
}

// spawn starts the pod's init, which waits for send.
func spawn(cfg Config, pod *Pod) (*podProcess, error) {
	reads, writes, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer reads.Close()
	files := []*os.File{reads}
	if isRoot() {
		exe, err := detachExe(cfg.Exe)
		if err != nil {
			writes.Close()
			return nil, err
		}
		defer exe.Close()
		files = append(files, exe)
	}
	p := &podProcess{pod: pod, setup: writes, stderr: &tail{next: cfg.Stderr}}
	p.cmd = &exec.Cmd{
		Path:        cfg.Exe,
		Args:        []string{cfg.Exe, InitCommand},
		Dir:         "/",
		Env:         []string{},
		Stdout:      cfg.Stdout,
		Stderr:      p.stderr,
		ExtraFiles:  files,
		WaitDelay:   time.Second, // for a Stdout that blocks
		SysProcAttr: inNamespaces(),
	}
	started := make(chan error)
	go p.run(started)
	if err := <-started; err != nil {
		writes.Close()
		return nil, fmt.Errorf("start the pod's init: %w", err)
	}
	return p, nil
}

// inNamespaces has a process start in namespaces of its own, which takes a user namespace where this user is not root.
func inNamespaces() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
		Setsid:     true, // the terminal's Ctrl-C is for the demo, which then ends the pod
		Pdeathsig:  unix.SIGKILL,
	}
	if !isRoot() {
		attr.Cloneflags |= unix.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	return attr
}

// run starts the process and reaps it, on one thread that does nothing else.
// The parent-death signal comes when the thread that forked ends, not the
// process (PR_SET_PDEATHSIG(2const)); Go ends threads as it likes, except
// one that a goroutine has locked. The other way, a pipe whose EOF ends the
// pod, would need a process inside that reads it, and process 1 is the
// application, which may be anything.
func (p *podProcess) run(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := p.cmd.Start()
	started <- err
	if err != nil {
		return
	}
	p.pod.err = p.cmd.Wait()
	close(p.pod.done)
}

func (p *podProcess) pid() int { return p.cmd.Process.Pid }

// send gives init its setup. The pipe stays open: its end would tell init
// that this process has died.
func (p *podProcess) send(s setup) error {
	if err := json.NewEncoder(p.setup).Encode(s); err != nil {
		if errors.Is(err, unix.EPIPE) {
			<-p.pod.done
			return p.ended()
		}
		return fmt.Errorf("set up the pod: %w", err)
	}
	return nil
}

var errEndedAtStart = errors.New("the application ended at start")

// ended is the error of a process that ended before it listened. Call it
// after done.
func (p *podProcess) ended() error {
	how := p.pod.err
	if how == nil {
		how = errors.New("exit status 0")
	}
	if said := p.stderr.String(); said != "" {
		return fmt.Errorf("%w: %w: %s", errEndedAtStart, how, said)
	}
	return fmt.Errorf("%w: %w", errEndedAtStart, how)
}

// kill returns once the process is reaped, and with it, by the kernel, all
// processes of its namespace (pid_namespaces(7)).
func (p *podProcess) kill() error {
	err := p.cmd.Process.Kill()
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	<-p.pod.done
	return errors.Join(err, p.setup.Close())
}

// detachExe clones the mount of the program's file. A path would not do:
// the file may have been replaced since it was started, and /proc/self/exe
// leads into this mount namespace, from where init may not bind it.
func detachExe(path string) (*os.File, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("clone the mount of %s: %w", path, err)
	}
	tree := os.NewFile(uintptr(fd), path)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID, Propagation: unix.MS_PRIVATE}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		tree.Close()
		return nil, fmt.Errorf("make the mount of %s read-only: %w", path, err)
	}
	return tree, nil
}

// tail passes on what is written and keeps the end of it.
type tail struct {
	next io.Writer // may be nil

	mu   sync.Mutex
	last []byte
}

const tailSize = 2048

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	t.last = append(t.last, b...)
	if extra := len(t.last) - tailSize; extra > 0 {
		t.last = append(t.last[:0], t.last[extra:]...)
	}
	t.mu.Unlock()
	if t.next == nil {
		return len(b), nil
	}
	return t.next.Write(b)
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.last))
}
