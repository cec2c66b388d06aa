package kuard

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// maxEntries is how much of a directory is shown.
	maxEntries = 5000
	// maxCrumbs is how many directories of a path are linked to: each link repeats the ones before it.
	maxCrumbs = 50
	// maxWhole is up to which size a file is read before it is sent, and how much is read of one that does not know its size.
	maxWhole = 1 << 20
	// truncatedHeader is on a reply that has only the beginning of a file; its value is how many bytes that is.
	truncatedHeader = "Kuard-Truncated"
)

// listing is a directory's page, or why there is none.
type listing struct {
	Crumbs  []crumb
	Entries []entry
	Cut     int // how many entries are shown of more, or 0
	Error   string
}

// crumb is a directory on the way to the one shown.
type crumb struct{ Name, Href string }

// entry is one row. Href is "" for what cannot be opened.
type entry struct {
	Name, Href, Kind, Mode, Size, Target string
	Time                                 time.Time
}

// browse shows a directory or sends a file.
// An error is told with the visitor's path, not with what os.Root made of it.
func (s *Server) browse(w http.ResponseWriter, r *http.Request) {
	name := path.Clean("/" + r.PathValue("path"))
	if err := s.browseTo(w, r, name); err != nil {
		p := s.newPage(r, name, "fs")
		p.Body = listing{Crumbs: crumbs(name), Error: "open " + name + ": " + reason(err).Error()}
		p.write(w, fileStatus(err), "fs.html")
	}
}

func (s *Server) browseTo(w http.ResponseWriter, r *http.Request, name string) error {
	t, err := openTree(cmp.Or(s.Root, "/"))
	if err != nil {
		return err
	}
	defer t.close()
	f, info, err := t.open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if !info.IsDir() {
		return sendFile(w, r, f, info)
	}
	if !strings.HasSuffix(r.URL.Path, "/") {
		// The entries' links are relative to the directory.
		http.Redirect(w, r, r.URL.EscapedPath()+"/", http.StatusFound)
		return nil
	}
	return s.showDir(w, r, t, f, name)
}

func reason(err error) error {
	if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
		return pathErr.Err
	}
	return err
}

// fileStatus maps what the file system says to what HTTP says.
func fileStatus(err error) int {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.EINVAL),
		errors.Is(err, syscall.ENAMETOOLONG), errors.Is(err, syscall.ESRCH):
		return http.StatusNotFound
	case errors.Is(err, fs.ErrPermission), errors.Is(err, errSpecial), errors.Is(err, syscall.ELOOP):
		return http.StatusForbidden
	}
	return http.StatusInternalServerError
}

func (s *Server) showDir(w http.ResponseWriter, r *http.Request, t *tree, dir *os.File, name string) error {
	found, err := dir.ReadDir(maxEntries + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	l := listing{Crumbs: crumbs(name)}
	if len(found) > maxEntries {
		found, l.Cut = found[:maxEntries], maxEntries
	}
	at, err := t.resolve(name)
	if err != nil {
		return err
	}
	l.Entries = t.entries(at, found)
	p := s.newPage(r, name, "fs")
	p.Body = l
	p.write(w, http.StatusOK, "fs.html")
	return nil
}

// entries describes what was found in the directory at: directories first, by name.
func (t *tree) entries(at string, found []fs.DirEntry) []entry {
	slices.SortFunc(found, func(a, b fs.DirEntry) int {
		switch {
		case a.IsDir() == b.IsDir():
			return cmp.Compare(a.Name(), b.Name())
		case a.IsDir():
			return -1
		}
		return 1
	})
	var list []entry
	for _, d := range found {
		info, err := d.Info()
		if err != nil {
			continue // It went away in between, as processes in /proc do.
		}
		list = append(list, t.entry(at, info))
	}
	return list
}

func (t *tree) entry(at string, info fs.FileInfo) entry {
	e := entry{
		Name: info.Name(),
		Href: "./" + url.PathEscape(info.Name()),
		Kind: kindOf(info.Mode()),
		Mode: info.Mode().String(),
		Time: info.ModTime(),
	}
	switch e.Kind {
	case "directory":
		e.Href += "/"
	case "file":
		e.Size = formatSize(info.Size())
	case "link":
		e.Target, _ = t.root.Readlink(path.Join(at, info.Name()))
	default:
		e.Href = ""
	}
	return e
}

func kindOf(mode fs.FileMode) string {
	switch mode.Type() {
	case 0:
		return "file"
	case fs.ModeDir:
		return "directory"
	case fs.ModeSymlink:
		return "link"
	case fs.ModeNamedPipe:
		return "pipe"
	case fs.ModeSocket:
		return "socket"
	}
	return "device"
}

func formatSize(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	size, units := float64(n)/1024, "KMGTPE"
	for size >= 1024 {
		size, units = size/1024, units[1:]
	}
	return fmt.Sprintf("%.1f %ciB", size, units[0])
}

func crumbs(name string) []crumb {
	list := []crumb{{"/", "/fs/"}}
	href := "/fs/"
	for part := range strings.SplitSeq(strings.Trim(name, "/"), "/") {
		if part != "" && len(list) <= maxCrumbs {
			href += url.PathEscape(part) + "/"
			list = append(list, crumb{part, href})
		}
	}
	return list
}

// sendFile sends a regular file. Whatever text is in it is shown as text, and never run:
// a script or a page in the pod's file system must not become a part of this site.
func sendFile(w http.ResponseWriter, r *http.Request, f *os.File, info fs.FileInfo) error {
	content, start, cut, err := fileContent(f, info)
	if err != nil {
		return err
	}
	kind := http.DetectContentType(start)
	if strings.HasPrefix(kind, "text/") {
		kind = "text/plain; charset=utf-8"
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Content-Security-Policy", "sandbox; default-src 'none'; style-src 'unsafe-inline'")
	if cut {
		w.Header().Set(truncatedHeader, strconv.Itoa(len(start)))
	}
	http.ServeContent(w, r, "", info.ModTime(), content)
	return nil
}

// fileContent returns the content, its first bytes, and whether it is only the beginning.
// A small file is read first and then sent: in /proc files say that they have 0 bytes,
// in /sys 4096, and either would become a reply of the wrong length.
func fileContent(f *os.File, info fs.FileInfo) (content io.ReadSeeker, start []byte, cut bool, err error) {
	if info.Size() > maxWhole {
		start = make([]byte, 512)
		n, err := f.ReadAt(start, 0)
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return f, start[:n], false, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxWhole+1))
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, syscall.EAGAIN) {
		return nil, nil, false, err
	}
	cut = err != nil || len(data) > maxWhole
	data = data[:min(len(data), maxWhole)]
	return bytes.NewReader(data), data, cut, nil
}
