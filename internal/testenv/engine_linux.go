package testenv

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/proc"
)

// Engine is a real container engine, with sockets and folders of its own, which no other engine of the machine sees. It takes root.
// Its containers have no network but a loopback of their own, and an image Image with busybox.
type Engine struct {
	Host string // such as unix:///tmp/docker1/docker.sock
	Dir  string // for its files

	cli     []string // the command that a person would use
	env     []string
	command []string // that serves Host
	pidFile string   // that the engine writes; "" if it is the command's own process
	serving *exec.Cmd
	stop    io.Closer
}

// Image is the name of the image of all engines.
const Image = "porthole-test:latest"

// Web is what a container runs that serves its host name as /id at port 8080 of its loopback.
var Web = []string{"sh", "-c", "mkdir -p /www && hostname > /www/id && exec httpd -f -p 127.0.0.1:8080 -h /www"}

// untilClosed runs a command until standard input ends, also because whoever has started it is gone.
const untilClosed = `"$@" </dev/null & child=$!; read line; kill -TERM $child; wait $child`

// NewDocker starts Docker's engine, until the test ends.
func NewDocker(t testing.TB) *Engine {
	t.Helper()
	e := newDocker(t)
	e.begin(t)
	return e
}

func newDocker(t testing.TB) *Engine {
	t.Helper()
	Root(t)
	docker, bin := Program(t, "docker.io", "usr/bin/docker")
	dockerd, sbin := Program(t, "docker.io", "usr/sbin/dockerd")
	_, containerd := Program(t, "containerd", "usr/bin/containerd")
	_, runc := Program(t, "runc", "usr/sbin/runc")
	e := newEngine(t, "docker", bin, sbin, containerd, runc)
	e.cli = []string{docker, "-H", e.Host}
	e.pidFile = filepath.Join(e.Dir, "pid")
	e.command = []string{dockerd, "--data-root", e.Dir + "/data", "--exec-root", e.Dir + "/exec", "-H", e.Host, "--pidfile", e.pidFile,
		"--bridge=none", "--iptables=false", "--ip6tables=false", "--storage-driver=vfs", "--group", "nogroup"}
	return e
}

// podmanSettings are those of containers.conf(5), for machines whose cgroups and limits cannot be changed.
const podmanSettings = `[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
stop_timeout = 0
conmon_path = ["%[1]s"]
tmp_dir = "%[2]s/tmp"
`

// podmanStorage is storage.conf(5).
const podmanStorage = `[storage]
driver = "vfs"
graphroot = "%[1]s/graph"
runroot = "%[1]s/run"
`

// NewPodman starts podman's service, until the test ends. The commands of Do do without it, as podman does.
func NewPodman(t testing.TB) *Engine {
	t.Helper()
	Root(t)
	podman, bin := Program(t, "podman", "usr/bin/podman")
	conmon, _ := Program(t, "conmon", "usr/bin/conmon")
	_, runc := Program(t, "runc", "usr/sbin/runc")
	e := newEngine(t, "podman", bin, runc)
	e.configurePodman(t, conmon)
	e.cli = []string{podman}
	e.command = []string{podman, "system", "service", "--time=0", e.Host}
	e.begin(t)
	return e
}

// configurePodman writes podman's settings.
func (e *Engine) configurePodman(t testing.TB, conmon string) {
	t.Helper()
	for name, text := range map[string]string{
		"containers.conf": fmt.Sprintf(podmanSettings, conmon, e.Dir), "storage.conf": fmt.Sprintf(podmanStorage, e.Dir),
		".config/containers/policy.json": `{"default": [{"type": "insecureAcceptAnything"}]}`, "registries.conf": "",
	} {
		path := filepath.Join(e.Dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	e.env = append(e.env, "CONTAINERS_CONF="+e.Dir+"/containers.conf", "CONTAINERS_STORAGE_CONF="+e.Dir+"/storage.conf",
		"CONTAINERS_REGISTRIES_CONF="+e.Dir+"/registries.conf")
}

// newEngine makes an engine's folder, and its environment with the folders of programs.
func newEngine(t testing.TB, name string, bin ...string) *Engine {
	t.Helper()
	dir := engineFolder(t, name)
	path := "PATH=" + strings.Join(append(bin, os.Getenv("PATH")), ":")
	return &Engine{Host: "unix://" + dir + "/" + name + ".sock", Dir: dir, env: append(os.Environ(), path, "HOME="+dir, "XDG_CONFIG_HOME="+dir+"/.config", "XDG_RUNTIME_DIR="+dir, "TMPDIR="+dir)}
}

// engineFolder makes a folder until the test ends, which then goes with what the engine has left mounted in it, such as Docker
// the network namespace of the host.
func engineFolder(t testing.TB, name string) string {
	t.Helper()
	noTraces(t)
	dir, err := os.MkdirTemp("", name) // a test's own would make a path that is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		list, err := os.ReadFile("/proc/self/mountinfo")
		mounts, malformed := proc.ParseMounts(list)
		for _, m := range slices.Backward(mounts) {
			if strings.HasPrefix(m.Point, dir+"/") {
				err = errors.Join(err, unix.Unmount(m.Point, unix.MNT_DETACH))
			}
		}
		var stays error
		within(Patience, func() bool { stays = os.RemoveAll(dir); return stays == nil }) // podman cleans up after its containers for a while
		if err := errors.Join(err, malformed, stays); err != nil {
			t.Errorf("an engine's folder stays: %v", err)
		}
	})
	return dir
}

// begin starts the engine, and ends it and its containers with the test.
func (e *Engine) begin(t testing.TB) {
	t.Helper()
	e.Start(t)
	t.Cleanup(func() {
		if e.serving == nil {
			e.Start(t)
		}
		e.RemoveAll(t)
		e.Stop(t)
	})
	cmd := e.Command("import", "-", Image)
	cmd.Stdin = busybox(t)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("import an image: %v: %s", err, out)
	}
}

// Start starts the engine, after Stop or Kill.
func (e *Engine) Start(t testing.TB) {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(e.Dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	e.serving = exec.Command("sh", append([]string{"-c", untilClosed, "sh"}, e.command...)...)
	e.serving.Env, e.serving.Stdout, e.serving.Stderr = e.env, log, log
	if e.stop, err = e.serving.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := e.serving.Start(); err != nil {
		t.Fatal(err)
	}
	if !within(Patience, e.answers) {
		text, _ := os.ReadFile(log.Name())
		t.Fatalf("%s does not answer:\n%s", e.command[0], text)
	}
}

// answers reports whether somebody listens on the engine's socket.
func (e *Engine) answers() bool {
	conn, err := net.DialTimeout("unix", strings.TrimPrefix(e.Host, "unix://"), time.Second)
	if err != nil {
		return false
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, "GET /_ping HTTP/1.0\r\nHost: engine\r\n\r\n"); err != nil {
		return false
	}
	answer, _ := io.ReadAll(conn)
	return bytes.Contains(answer, []byte("200 OK"))
}

// Stop ends the engine.
func (e *Engine) Stop(t testing.TB) {
	t.Helper()
	_ = e.stop.Close()
	_ = e.serving.Wait()
	e.serving = nil
}

// Kill kills the engine at once. Its containers go on.
func (e *Engine) Kill(t testing.TB) {
	t.Helper()
	pid := e.pid(t)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	e.Stop(t)
	// A number that is left may be another process' by now, and the next engine would wait for it.
	for _, path := range []string{e.pidFile, e.Dir + "/exec/containerd/containerd.pid"} {
		if text, err := os.ReadFile(path); err == nil {
			pid, _ := strconv.Atoi(strings.TrimSpace(string(text)))
			Await(t, "containerd has ended with its engine", func() bool {
				stat, err := proc.ReadStat(pid)
				return err != nil || stat.Exited()
			})
			_ = os.Remove(path)
		}
	}
}

// pid is the number of the engine's process: what it writes itself, or the only child of what runs it.
func (e *Engine) pid(t testing.TB) int {
	t.Helper()
	path := e.pidFile
	if path == "" {
		shell := e.serving.Process.Pid
		path = fmt.Sprintf("/proc/%d/task/%d/children", shell, shell)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// Command is the engine's own command with arguments, such as "ps".
func (e *Engine) Command(args ...string) *exec.Cmd {
	cmd := exec.Command(e.cli[0], append(append([]string(nil), e.cli[1:]...), args...)...)
	cmd.Env = e.env
	return cmd
}

// Do runs the engine's own command, and returns what it prints.
func (e *Engine) Do(t testing.TB, args ...string) string {
	t.Helper()
	cmd := e.Command(args...)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, errs.String())
	}
	return strings.TrimSpace(string(out))
}

// Run starts a container, with options such as --name, and returns its ID. It runs Web if no command is given, and waits until that
// listens.
func (e *Engine) Run(t testing.TB, options []string, command ...string) (id string) {
	t.Helper()
	web := command == nil
	if web {
		command = Web
	}
	args := []string{"run", "-d", "--stop-timeout", "0"} // it does not heed SIGTERM, as the first process of its namespace
	if !slices.Contains(options, "--network") {
		args = append(args, "--network", "none")
	}
	id = e.Do(t, slices.Concat(args, options, []string{Image}, command)...)
	if web {
		e.Do(t, "exec", id, "sh", "-c", "until nc 127.0.0.1 8080 </dev/null; do sleep 0.05; done")
	}
	return id
}

// RemoveAll removes all containers.
func (e *Engine) RemoveAll(t testing.TB) {
	t.Helper()
	if ids := strings.Fields(e.Do(t, "ps", "-aq")); len(ids) > 0 {
		e.Do(t, append([]string{"rm", "-f"}, ids...)...)
	}
}

// PID returns the number of a container's first process.
func (e *Engine) PID(t testing.TB, name string) int {
	t.Helper()
	pid, err := strconv.Atoi(e.Do(t, "inspect", "-f", "{{.State.Pid}}", name))
	if err != nil || pid == 0 {
		t.Fatalf("%s: process %d, %v", name, pid, err)
	}
	return pid
}

// busybox is an image's only layer, as a tar archive.
func busybox(t testing.TB) io.Reader {
	t.Helper()
	program, _ := Program(t, "busybox-static", "bin/busybox")
	text, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	write := func(h *tar.Header, text []byte) {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(text); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"bin", "dev", "etc", "proc", "run", "sys", "tmp"} {
		write(&tar.Header{Name: dir + "/", Typeflag: tar.TypeDir, Mode: 0o755}, nil)
	}
	write(&tar.Header{Name: "bin/busybox", Mode: 0o755, Size: int64(len(text))}, text)
	for _, name := range []string{"sh", "sleep", "hostname", "mkdir", "httpd", "cat", "nc"} {
		write(&tar.Header{Name: "bin/" + name, Typeflag: tar.TypeSymlink, Linkname: "busybox", Mode: 0o777}, nil)
	}
	write(&tar.Header{Name: "etc/passwd", Mode: 0o644, Size: 30}, []byte(fmt.Sprintf("%-29s\n", "root:x:0:0::/:/bin/sh")))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}
