package demo

import (
	"debug/elf"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// rootfs is the directory that becomes the pod's /.
type rootfs string

// enterRoot mounts a file system on dir that holds files, the program and
// what it needs to run, and makes it this mount namespace's only one. The
// program is copied where its mount was not handed over.
func enterRoot(dir string, files map[string]string, copied bool) error {
	unix.Umask(0o022)
	// Nothing below may show on the host.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	root := rootfs(dir)
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID, "mode=0755,size=256m"); err != nil {
		return fmt.Errorf("mount the pod's root: %w", err)
	}
	for _, step := range []func() error{
		func() error { return root.addFiles(files) },
		root.addDevices,
		func() error { return root.addProgram(copied) },
		root.addLibraries, root.addKernel, root.pivot,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (r rootfs) path(name string) string { return filepath.Join(string(r), name) }

func (r rootfs) addFiles(files map[string]string) error {
	if err := os.Mkdir(r.path("tmp"), 0o777); err != nil {
		return err
	}
	if err := os.Chmod(r.path("tmp"), 0o777|os.ModeSticky); err != nil {
		return err
	}
	for name, content := range files {
		if err := r.create(name, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (r rootfs) create(name, content string, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(r.path(name)), 0o755); err != nil {
		return err
	}
	return os.WriteFile(r.path(name), []byte(content), mode)
}

// addDevices binds the host's: making them needs a capability that a
// container seldom has.
func (r rootfs) addDevices() error {
	for _, device := range []string{"/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"} {
		if err := r.bind(device, 0); err != nil {
			return err
		}
	}
	return nil
}

// bind shows a file of the host at the same path in the pod.
func (r rootfs) bind(path string, flags uintptr) error {
	if err := r.create(path, "", 0o644); err != nil {
		return err
	}
	if err := unix.Mount(path, r.path(path), "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", path, err)
	}
	if flags == 0 {
		return nil
	}
	if err := unix.Mount("", r.path(path), "", unix.MS_BIND|unix.MS_REMOUNT|flags, ""); err != nil {
		return fmt.Errorf("bind %s: %w", path, err)
	}
	return nil
}

// addProgram shows the program's file, or a copy of it, as if only root may
// execute the file itself.
func (r rootfs) addProgram(copied bool) error {
	if err := r.create(programPath, "", 0o755); err != nil {
		return err
	}
	exe, err := os.Stat("/proc/self/exe")
	if err != nil {
		return err
	}
	if copied || exe.Mode()&0o005 != 0o005 {
		return r.copyProgram()
	}
	if err := unix.MoveMount(exeFD, "", unix.AT_FDCWD, r.path(programPath), unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount the program: %w", err)
	}
	return nil
}

func (r rootfs) copyProgram() error {
	from, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenFile(r.path(programPath), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if _, err := io.Copy(to, from); err != nil {
		to.Close()
		return fmt.Errorf("copy the program: %w", err)
	}
	return to.Close()
}

// addLibraries shows the shared objects of a program that was linked
// dynamically, as Go does by default where it finds a C compiler. init is
// the same program, so its own are the ones.
func (r rootfs) addLibraries() error {
	objects, err := sharedObjects()
	if err != nil {
		return fmt.Errorf("find the program's libraries: %w", err)
	}
	for _, object := range objects {
		if err := r.bind(object, unix.MS_RDONLY|unix.MS_NOSUID); err != nil {
			return err
		}
	}
	return nil
}

// sharedObjects is empty for a static program. The interpreter comes first,
// by the path that the kernel looks for, which is often a symbolic link.
func sharedObjects() ([]string, error) {
	interpreter, err := elfInterpreter("/proc/self/exe")
	if err != nil || interpreter == "" {
		return nil, err
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return nil, err
	}
	return append([]string{interpreter}, mappedObjects(string(maps), interpreter)...), nil
}

// mappedObjects are the other files with code in /proc/PID/maps, whose sixth
// field is a path (proc_pid_maps(5)).
func mappedObjects(maps, interpreter string) []string {
	var objects []string
	for line := range strings.Lines(maps) {
		fields := strings.Fields(line)
		if len(fields) != 6 || !strings.Contains(fields[1], "x") {
			continue
		}
		path := fields[5]
		if strings.HasPrefix(path, "/") && strings.Contains(filepath.Base(path), ".so") && path != interpreter {
			objects = append(objects, path)
		}
	}
	return objects
}

func elfInterpreter(path string) (string, error) {
	file, err := elf.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	for _, segment := range file.Progs {
		if segment.Type == elf.PT_INTERP {
			name, err := io.ReadAll(segment.Open())
			return strings.TrimRight(string(name), "\x00"), err
		}
	}
	return "", nil
}

// addKernel mounts /proc and /sys, which show the new namespaces.
func (r rootfs) addKernel() error {
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	for _, kind := range []struct {
		fs, dir string
		flags   uintptr
	}{{"proc", "proc", flags}, {"sysfs", "sys", flags | unix.MS_RDONLY}} {
		if err := os.Mkdir(r.path(kind.dir), 0o555); err != nil {
			return err
		}
		if err := unix.Mount(kind.fs, r.path(kind.dir), kind.fs, kind.flags, ""); err != nil {
			return fmt.Errorf("mount /%s: %w", kind.dir, err)
		}
	}
	return nil
}

// pivot stacks the old root on the new one and takes it off again, which
// needs no directory for it (pivot_root(2), NOTES).
func (r rootfs) pivot() error {
	if err := unix.Chdir(string(r)); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("detach the host's files: %w", err)
	}
	return unix.Chdir("/")
}
