// Package leftovers keeps a list of the files that a process has made and removes at its end, so that others can remove
// them if it was killed. It must not know what the files are for.
package leftovers

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// Entry is a file, or the pod of a relay that the process used.
type Entry struct {
	Path string `json:"path,omitempty"` // absolute
	Is   mark   `json:"is,omitzero"`    // what tells the file from a later one at its path
	Pod  string `json:"pod,omitempty"`  // of a relay
}

// mark tells a file from another one that has its path later. A number of a file is used again; the
// time at which it was written or bound last makes the difference.
type mark struct {
	Device   uint64 `json:"device"`
	Inode    uint64 `json:"inode"`
	Modified int64  `json:"modified"` // ns since 1970
}

// errForeign means that a list is another user's, or no file.
var errForeign = errors.New("the list is another user's")

// suffix is that of the lists' names.
const suffix = ".jsonl"

// List is the list of this process: a file in Dir, which is locked for as long as the process
// lives, and made with the first entry. The zero value notes nothing. Its methods are safe to call at
// the same time.
type List struct {
	Dir string // "" for nowhere

	mu   sync.Mutex
	file *os.File
}

// NoteFile notes a file that this process has made.
func (l *List) NoteFile(path string) error {
	absolute, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	is, err := markOf(absolute)
	if err != nil {
		return err
	}
	return l.note(Entry{Path: absolute, Is: is})
}

// NotePod notes the pod of a relay that this process uses.
func (l *List) NotePod(name string) error { return l.note(Entry{Pod: name}) }

func (l *List) note(e Entry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.Dir == "" {
		return nil
	}
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if l.file == nil {
		if l.file, err = create(l.Dir); err != nil {
			return err
		}
	}
	_, err = l.file.Write(append(line, '\n'))
	return err
}

// Close removes the list. The files have to be gone by then.
func (l *List) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	file := l.file
	l.file = nil
	return release(file)
}

// Left is the list of a process that has died.
type Left struct {
	Files []string // those that are still there, as the process has left them
	marks []mark   // of Files
	file  *os.File
}

// Find returns the lists of this user's dead processes, which nobody else gets until they are closed, and the
// pods of relays that living ones use. Lists of other users, and files of theirs, are left alone: anybody could
// have written those lists, and root may come by. In "", which is nowhere, it finds nothing.
func Find(dir string) (dead []Left, pods []string, err error) {
	if dir == "" {
		return nil, nil, nil
	}
	names, err := filepath.Glob(filepath.Join(dir, "*"+suffix))
	if err != nil {
		return nil, nil, err
	}
	for _, name := range names {
		file, err := lock(name)
		switch {
		case errors.Is(err, errHeld):
			text, _ := os.ReadFile(name)
			for _, e := range parse(text) {
				if e.Pod != "" {
					pods = append(pods, e.Pod)
				}
			}
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, errForeign):
		case err != nil:
			return dead, pods, err
		default:
			dead = append(dead, leftIn(file))
		}
	}
	return dead, pods, nil
}

// leftIn reads a list of a dead process.
func leftIn(file *os.File) Left {
	left := Left{file: file}
	text, _ := io.ReadAll(file)
	for _, e := range parse(text) {
		info, err := os.Lstat(e.Path)
		if !filepath.IsAbs(e.Path) || err != nil || !isMine(info) {
			continue
		}
		if now, err := markIn(info); err == nil && now == e.Is {
			left.Files, left.marks = append(left.Files, e.Path), append(left.marks, e.Is)
		}
	}
	return left
}

// Remove removes the files, and the list with them if that succeeds.
func (l Left) Remove() error {
	var all error
	for i, path := range l.Files {
		if err := remove(path, l.marks[i]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			all = errors.Join(all, err)
		}
	}
	if all != nil {
		return errors.Join(all, l.file.Close())
	}
	return release(l.file)
}

// Close leaves everything as it is.
func (l Left) Close() error { return l.file.Close() }

// remove removes a file if it is still the one of a mark. Its folder is held meanwhile: whoever owns that, or
// one above, could put a link in its place.
func remove(path string, is mark) error {
	folder, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer folder.Close()
	info, err := folder.Lstat(filepath.Base(path))
	if err != nil {
		return err
	}
	if now, err := markIn(info); err != nil || now != is {
		return nil //nolint:nilerr // it is somebody else's by now
	}
	return folder.Remove(filepath.Base(path))
}

// markOf returns what tells a file from others.
func markOf(path string) (mark, error) {
	if !filepath.IsAbs(path) {
		return mark{}, errors.New("not an absolute path")
	}
	info, err := os.Lstat(path)
	if err != nil {
		return mark{}, err
	}
	return markIn(info)
}

// parse returns the entries of a list. A line that was cut off is left out.
func parse(text []byte) (all []Entry) {
	for line := range bytes.Lines(text) {
		var e Entry
		if json.Unmarshal(line, &e) == nil {
			all = append(all, e)
		}
	}
	return all
}
