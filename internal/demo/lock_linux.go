package demo

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/filelock"
)

// record is what the lock file says, as JSON: enough for the next demo to
// clear what a killed one left.
type record struct {
	PID    int     `json:"pid"`    // the demo itself
	Boot   string  `json:"boot"`   // process numbers mean nothing after a reboot
	Bridge string  `json:"bridge"` // written before the bridge is made
	Pod    process `json:"pod"`    // zero until the pod's process runs
}

// stateLock is the locked file. The kernel drops the lock when the demo
// ends, however it ends; its children do not inherit it.
type stateLock struct {
	dir  string
	file *os.File
}

// lockGrace is how long a demo that was killed may hold on to its lock: as long as a
// child of its that was just forked takes to execute its program.
const lockGrace = 2 * time.Second

// lockState takes the lock, or fails with [ErrRunning].
func lockState(dir string) (*stateLock, error) {
	path := filepath.Join(dir, "demo.lock")
	for end := time.Now().Add(lockGrace); ; time.Sleep(10 * time.Millisecond) {
		err := os.MkdirAll(dir, 0o755)
		if err == nil {
			err = checkOwner(dir)
		}
		var file *os.File
		if err == nil {
			file, err = filelock.Acquire(path, 0o644)
		}
		late := time.Now().After(end)
		switch holder := (runningError{holderOf(path)}); {
		case err == nil:
			return &stateLock{dir: dir, file: file}, nil
		case errors.Is(err, os.ErrNotExist) && !late: // whoever held it has removed the directory
		case !errors.Is(err, filelock.ErrHeld):
			return nil, fmt.Errorf("state directory: %w", err)
		case holder.lives() || late:
			return nil, &holder
		}
	}
}

// checkOwner refuses a directory that others can write to, as in /tmp they may have made it first: what the file in
// there names is killed and removed.
func checkOwner(dir string) error {
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return &os.PathError{Op: "lstat", Path: dir, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0 {
		return fmt.Errorf("%s: %w", dir, ErrStateDir)
	}
	return nil
}

// holderOf is the process that a lock file names, 0 while it names none.
func holderOf(path string) int {
	file, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer file.Close()
	r, _ := (&stateLock{file: file}).read() // whose it is may not be written yet
	return r.PID
}

// runningError is an ErrRunning that knows which process runs; 0 if nobody has
// written it down yet.
type runningError struct{ pid int }

func (e *runningError) Error() string {
	if e.pid == 0 {
		return ErrRunning.Error()
	}
	return fmt.Sprintf("%v: process %d", ErrRunning, e.pid)
}

func (e *runningError) Unwrap() error { return ErrRunning }

func (e *runningError) lives() bool { return e.pid != 0 && identify(e.pid).Start != 0 }

func (l *stateLock) read() (r record, err error) {
	err = json.NewDecoder(io.NewSectionReader(l.file, 0, 1<<16)).Decode(&r)
	if errors.Is(err, io.EOF) {
		return record{}, nil
	}
	return r, err
}

func (l *stateLock) write(r record) error {
	r.PID, r.Boot = os.Getpid(), bootID()
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	// Never empty in between: a kill may come at any time.
	if _, err = l.file.WriteAt(append(text, '\n'), 0); err != nil {
		return err
	}
	return l.file.Truncate(int64(len(text)) + 1)
}

// clearLeftovers removes what a demo left that was killed. A record that
// cannot be read is one that was being written, before anything was made.
func (l *stateLock) clearLeftovers(log *slog.Logger) error {
	r, err := l.read()
	if err != nil {
		log.Warn("demo: unreadable record of an earlier demo", "file", l.file.Name(), "err", err)
	}
	if r.Boot != bootID() {
		r = record{}
	}
	if r.PID != 0 {
		log.Info("demo: clearing what an earlier demo left", "pid", r.PID, "bridge", r.Bridge)
	}
	if err := r.Pod.kill(); err != nil {
		return fmt.Errorf("clear an earlier demo: %w", err)
	}
	if r.Bridge != "" {
		if err := removeLinks(r.Bridge); err != nil {
			return fmt.Errorf("clear an earlier demo: %w", err)
		}
	}
	err = os.Remove(filepath.Join(l.dir, "demo-root"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// release removes the file, lets go of the lock, and removes the directory if nothing
// else is in it.
func (l *stateLock) release() error {
	err := filelock.Release(l.file)
	_ = os.Remove(l.dir)
	return err
}

func bootID() string {
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id))
}
