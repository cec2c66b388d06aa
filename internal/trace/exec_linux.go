//go:build amd64 || arm64

package trace

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"
)

//go:generate ../../scripts/generate

// Run traces until ctx ends, which is no error, and reports what happened until
// then. It takes root, or CAP_BPF, CAP_PERFMON and the permission to read
// tracefs, which is root's, or to mount it. Errors: ErrPermission, ErrNoRingBuffer, ErrNoBTF, ErrNoTracepoints,
// and Event's own.
func (t *Execs) Run(ctx context.Context) error {
	p, err := attach()
	if err != nil {
		return fmt.Errorf("trace exec: %w", err)
	}
	defer p.close()
	if t.Ready != nil {
		if err := t.Ready(); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	var end sync.WaitGroup
	end.Go(func() { <-ctx.Done(); p.stop() })
	defer end.Wait()
	defer cancel()
	return t.read(p)
}

// read passes on what the probe reports, until it is stopped and all is read.
func (t *Execs) read(p *probe) error {
	var record ringbuf.Record
	var reported uint64
	for {
		err := p.reader.ReadInto(&record)
		if lost := p.lost(); lost > reported && t.Lost != nil {
			t.Lost(lost - reported)
			reported = lost
		}
		if errors.Is(err, ringbuf.ErrFlushed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("trace exec: read events: %w", err)
		}
		e, ns, err := decode(record.RawSample)
		if err != nil {
			return fmt.Errorf("trace exec: %w", err)
		}
		e.Time = clock(ns)
		if err := t.Event(e); err != nil {
			return err
		}
	}
}

// clock is the time of day of an event. CLOCK_MONOTONIC stops while the machine sleeps,
// so the two clocks are compared each time.
func clock(ns uint64) time.Time {
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) != nil {
		return time.Now() // vdso(7): it does not fail
	}
	return time.Now().Add(time.Duration(int64(ns) - now.Nano()))
}

// probe is the programs in the kernel and what comes back from them.
type probe struct {
	objects execObjects
	reader  *ringbuf.Reader

	detaching sync.Once
	attached  []io.Closer
}

// attach loads the programs and attaches them.
func attach() (*probe, error) {
	p := &probe{}
	err := p.load()
	if err == nil {
		p.reader, err = ringbuf.NewReader(p.objects.Records)
	}
	if err == nil {
		err = p.attach()
	}
	if err != nil {
		p.close()
		return nil, permission(err)
	}
	return p, nil
}

func (p *probe) load() error {
	if err := features.HaveMapType(ebpf.RingBuf); errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("%w: %w", ErrNoRingBuffer, err)
	}
	types, err := btf.LoadKernelSpec()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoBTF, err)
	}
	options := &ebpf.CollectionOptions{Programs: ebpf.ProgramOptions{KernelTypes: types}}
	err = loadExecObjects(&p.objects, options)
	// Before Linux 5.11, maps counted as locked memory, of which even root may have little.
	if errors.Is(err, unix.EPERM) && unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}) == nil {
		err = loadExecObjects(&p.objects, options)
	}
	return err
}

// attach starts with what ends a call, so that every call that is seen to begin
// is seen to end.
func (p *probe) attach() error {
	done, err := link.AttachRawTracepoint(link.RawTracepointOptions{Name: "sched_process_exec", Program: p.objects.ExecDone})
	if err != nil {
		return err
	}
	p.attached = append(p.attached, done)
	tracepoints, err := openTracepoints()
	if err != nil {
		return noTracepoints(err)
	}
	defer tracepoints.Close()
	for _, at := range []struct {
		name    string
		program *ebpf.Program
	}{
		{"sys_exit_execve", p.objects.EndExec},
		{"sys_exit_execveat", p.objects.EndExec},
		{"sys_enter_execve", p.objects.BeginExecve},
		{"sys_enter_execveat", p.objects.BeginExecveat},
	} {
		event, err := attachTracepoint(tracepoints, at.name, at.program)
		if err != nil {
			return noTracepoints(err)
		}
		p.attached = append(p.attached, event)
	}
	return nil
}

// noTracepoints wraps an error of tracepoints, unless it is a lack of permission.
func noTracepoints(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrNoTracepoints, err)
}

// permission wraps an error that the kernel returns for lack of a permission. The library
// adds guesses at its cause, among them some that load has excluded, so only the
// kernel's own error is kept.
func permission(err error) error {
	var path *fs.PathError
	var errno unix.Errno
	var verifier *ebpf.VerifierError
	switch {
	case !errors.Is(err, fs.ErrPermission):
		return err
	case errors.As(err, &verifier) && errors.Is(err, unix.EACCES):
		return err // bpf(2): a program that the kernel refuses as unsafe, whoever loads it
	case errors.As(err, &path):
		return fmt.Errorf("%w: %w", ErrPermission, path)
	case errors.As(err, &errno):
		return fmt.Errorf("%w: %w", ErrPermission, errno)
	}
	return fmt.Errorf("%w: %w", ErrPermission, err)
}

// lost is how many events have been dropped so far.
func (p *probe) lost() (n uint64) {
	_ = p.objects.Lost.Get(&n) // of memory that is mapped
	return n
}

// stop detaches, and lets the reader end once it has read what is there.
func (p *probe) stop() {
	p.detach()
	_ = p.reader.Flush()
}

func (p *probe) detach() {
	p.detaching.Do(func() {
		for _, l := range p.attached {
			_ = l.Close()
		}
	})
}

func (p *probe) close() {
	p.detach()
	if p.reader != nil {
		_ = p.reader.Close()
	}
	_ = p.objects.Close()
}
