package netns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// maxFile is how many bytes of a file are read. Some hosts files are lists of a megabyte and more.
const maxFile = 8 << 20

var errNotRegular = errors.New("not a regular file")

// readEtc reads a file of /etc as programs inside see it: of the process' root; or of /etc/netns/NAME
// if it is there, as ip-netns(8) shows it to the programs that it runs; or of this host.
func (ns *Namespace) readEtc(ctx context.Context, name string) (data []byte, err error) {
	path := filepath.Join("/etc", name)
	if ns.process == nil {
		return readHostEtc(ns.path, path)
	}
	if data, err = ns.process.readFile(ctx, path); err != nil {
		err = &os.PathError{Op: "open", Path: path, Err: err}
	}
	return data, err
}

// readHostEtc reads a file of this host's /etc for the namespace at a path.
func readHostEtc(namespace, path string) (data []byte, err error) {
	if dir := filepath.Dir(namespace); dir == "/run/netns" || dir == "/var/run/netns" {
		data, err = readFile(filepath.Join("/etc/netns", filepath.Base(namespace), filepath.Base(path)))
		if !errors.Is(err, os.ErrNotExist) {
			return data, err
		}
	}
	return readFile(path)
}

// readFile reads a file, or the beginning of a very large one. A FIFO has nothing to be read.
func readFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxFile))
}

// readFile reads a regular file inside the process' root, as the process' user. The process may
// have a file system that never answers, which nothing can end: ctx ends the wait, and
// others wait until that is over.
func (p *process) readFile(ctx context.Context, path string) ([]byte, error) {
	user, err := p.user()
	if err != nil {
		return nil, err
	}
	root, err := p.openRoot()
	if err != nil {
		return nil, err
	}
	select {
	case p.reading <- struct{}{}:
	case <-ctx.Done():
		root.Close()
		return nil, context.Cause(ctx)
	}
	type result struct {
		data []byte
		err  error
	}
	read := make(chan result, 1)
	go func() {
		defer func() { <-p.reading }()
		defer root.Close()
		var r result
		r.err = user.do(func() (err error) {
			r.data, err = readInRoot(root, path)
			return err
		})
		read <- r
	}()
	select {
	case r := <-read:
		return r.data, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func readInRoot(root *os.File, path string) ([]byte, error) {
	file, err := openInRoot(root, path, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	kind, err := kindOf(file)
	if err == nil && kind != unix.S_IFREG {
		err = errNotRegular
	}
	if err != nil {
		return nil, err
	}
	return readFile(fmt.Sprintf("/proc/self/fd/%d", file.Fd()))
}

// openRoot opens the process' root directory.
func (p *process) openRoot() (*os.File, error) {
	dir, err := p.directory()
	if errors.Is(err, ErrNoProcess) {
		return nil, ErrExited
	}
	if err != nil {
		return nil, err
	}
	root, err := unix.Openat(int(dir.Fd()), "root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil && p.exited() {
		return nil, ErrExited // whose root is gone: that is ENOENT too
	}
	if err != nil {
		return nil, p.explainAccess(os.NewSyscallError("openat", err))
	}
	return os.NewFile(uintptr(root), "root"), nil
}

// openInRoot opens a file inside a process' root, without permission to read it, so that neither
// a device nor a FIFO notices. Symbolic links are the process' choice, and lead to where they lead
// inside (openat2(2), since Linux 5.6).
func openInRoot(root *os.File, path string, resolve uint64) (*os.File, error) {
	fd, err := unix.Openat2(int(root.Fd()), path, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | resolve,
	})
	if err != nil {
		return nil, os.NewSyscallError("openat2", err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// kindOf returns the type of an open file, such as S_IFREG (inode(7)).
func kindOf(file *os.File) (uint32, error) {
	var stat unix.Stat_t
	err := unix.Fstat(int(file.Fd()), &stat)
	return stat.Mode & unix.S_IFMT, os.NewSyscallError("fstat", err)
}
