package kuard

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
	"time"
)

const (
	// maxLinks is how many symbolic links one path may lead through: Linux' own limit, path_resolution(7).
	maxLinks = 40
	// maxPath is how long a path may be, in bytes: Linux' PATH_MAX.
	maxPath = 4096
	// readPatience bounds reading a file that waits for more, such as /proc/kmsg.
	readPatience = 2 * time.Second
)

var errSpecial = errors.New("neither a directory nor a regular file, so it is not opened")

// tree reads below a directory as if that were /, as chroot(2) does: an absolute link starts there again.
// os.Root alone would refuse absolute links, of which a container image is full;
// under it, a link that is changed at the wrong moment still cannot lead outside.
type tree struct {
	root *os.Root
}

func openTree(dir string) (*tree, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &tree{root}, nil
}

func (t *tree) close() { t.root.Close() }

// open opens name for reading, when it is a directory or a regular file. The caller closes the file.
// Anything else may hang or do something by being opened: it is refused before.
func (t *tree) open(name string) (*os.File, fs.FileInfo, error) {
	at, err := t.resolve(name)
	if err != nil {
		return nil, nil, err
	}
	if info, err := t.root.Lstat(at); err != nil || !readable(info) {
		return nil, nil, firstError(err, &fs.PathError{Op: "open", Path: name, Err: errSpecial})
	}
	// Should it have become a fifo since, O_NONBLOCK keeps the open from waiting for a writer.
	f, err := t.root.OpenFile(at, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err != nil || !readable(info) {
		f.Close()
		return nil, nil, firstError(err, &fs.PathError{Op: "open", Path: name, Err: errSpecial})
	}
	// Most files cannot have a deadline, nor do they need one.
	_ = f.SetReadDeadline(time.Now().Add(readPatience))
	return f, info, nil
}

func readable(info fs.FileInfo) bool { return info.IsDir() || info.Mode().IsRegular() }

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// resolve follows the links in name, and returns a path for os.Root without any.
func (t *tree) resolve(name string) (string, error) {
	if len(name) > maxPath {
		return "", &fs.PathError{Op: "open", Path: name, Err: syscall.ENAMETOOLONG}
	}
	at, rest := "/", strings.Split(name, "/")
	for links := 0; len(rest) > 0; {
		next := path.Join(at, rest[0])
		rest = rest[1:]
		target, err := t.readlink(next)
		if err != nil {
			return "", err
		}
		if target == "" {
			at = next
			continue
		}
		if links++; links > maxLinks {
			return "", &fs.PathError{Op: "open", Path: name, Err: syscall.ELOOP}
		}
		if path.IsAbs(target) {
			at = "/"
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return local(at), nil
}

// readlink returns where the link at an absolute path points, or "" when there is no link but something else.
func (t *tree) readlink(abs string) (string, error) {
	info, err := t.root.Lstat(local(abs))
	if err != nil || info.Mode()&fs.ModeSymlink == 0 {
		return "", err
	}
	return t.root.Readlink(local(abs))
}

// local turns an absolute path into the one that os.Root wants.
func local(abs string) string {
	if abs == "/" {
		return "."
	}
	return strings.TrimPrefix(abs, "/")
}
