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
	for end := time.Now().Add(lockGrace); ; {
		l, err := tryLock(dir)
		var holder *runningError
		switch {
		case errors.As(err, &holder) && !holder.lives() && time.Now().Before(end):
			time.Sleep(10 * time.Millisecond)
		case err != nil:
			return nil, err
		case l.current():
			return l, nil
		default:
			// Its holder removed the file between open and lock.
			l.file.Close()
		}
	}
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

func tryLock(dir string) (*stateLock, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	file, err := os.OpenFile(filepath.Join(dir, "demo.lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	l := &stateLock{dir: dir, file: file}
	err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return l, nil
	}
	defer file.Close()
	if !errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("lock %s: %w", file.Name(), err)
	}
	r, _ := l.read() // whose it is may not be written yet
	return nil, &runningError{r.PID}
}

// current tells whether the locked file is still the one with the name.
func (l *stateLock) current() bool {
	named, err := os.Stat(l.file.Name())
	if err != nil {
		return false
	}
	locked, err := l.file.Stat()
	return err == nil && os.SameFile(named, locked)
}

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

// release removes the file before it lets go of the lock, so that nobody
// reads an old record, and the directory if nothing else is in it.
func (l *stateLock) release() error {
	err := errors.Join(os.Remove(l.file.Name()), l.file.Close())
	_ = os.Remove(l.dir)
	return err
}

func bootID() string {
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id))
}
