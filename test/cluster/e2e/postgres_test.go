package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"porthole.dev/porthole/internal/testenv"
)

// The user that PostgreSQL runs as, and its socket.
const (
	nobody         = 65534
	postgresSocket = "/run/postgresql/.s.PGSQL.5432"
)

// servePostgres is a shell's command for a PostgreSQL that listens on its Unix socket alone. It wants the directory of its
// programs and one for its data.
const servePostgres = `"$0"/initdb -D "$1"/data -U postgres -A trust >/dev/null && exec "$0"/postgres -D "$1"/data -k /run/postgresql -c listen_addresses=`

// postgresPrograms is the directory of PostgreSQL's programs.
func postgresPrograms(t *testing.T) string {
	t.Helper()
	for _, root := range []string{os.Getenv("PORTHOLE_POSTGRES"), "/"} {
		if found, _ := filepath.Glob(filepath.Join(root, "usr/lib/postgresql/*/bin/postgres")); root != "" && len(found) > 0 {
			return filepath.Dir(found[len(found)-1])
		}
	}
	testenv.Lacking(t, "PostgreSQL")
	return ""
}

// TestPostgresOfProcess: psql talks to a PostgreSQL of this host that only a Unix socket in a mount namespace leads to.
func TestPostgresOfProcess(t *testing.T) {
	needCluster(t)
	programs, data := postgresPrograms(t), t.TempDir()
	for _, dir := range []string{data, filepath.Dir(data)} {
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	within := fmt.Sprintf(`mount -t tmpfs -o mode=1777 none /run && mkdir -m 1777 /run/postgresql && exec setpriv --reuid %d --regid %[1]d --clear-groups sh -c '%s' "$0" "$1"`,
		nobody, servePostgres)
	server := startCommand(t, exec.Command("unshare", "--mount", "--net", "sh", "-c", within, programs, data))
	query(t, start(t, "forward", fmt.Sprintf("pid://%d", server.cmd.Process.Pid), ":"+postgresSocket))
}

// TestPostgresInPod: the same in a pod of a node that allows it, with local Unix sockets too.
func TestPostgresInPod(t *testing.T) {
	ctx := needCluster(t)
	n := startNode(t, ctx, "--allow-unix", "/run/postgresql/*")
	startPostgres(t, ctx)
	query(t, start(t, "forward", "pod/postgres", ":"+postgresSocket))

	dir := t.TempDir()
	local := filepath.Join(dir, ".s.PGSQL.5432")
	p := start(t, "forward", "pod/postgres", local+":"+postgresSocket)
	p.await(t, p.stdout, `^Forwarding from \S+ -> `)
	psql(t, dir, "5432")
	p.interrupt(t)
	if _, err := os.Lstat(local); err == nil {
		t.Errorf("%s is still there", local)
	}
	n.interrupt(t)
}

func startPostgres(t *testing.T, ctx context.Context) {
	t.Helper()
	var volumes, mounts []string
	mount := func(name, source, path string) {
		volumes = append(volumes, fmt.Sprintf("{name: %s, %s}", name, source))
		mounts = append(mounts, fmt.Sprintf("{name: %s, mountPath: %s, readOnly: %t}", name, path, strings.HasPrefix(name, "host")))
	}
	programs := postgresPrograms(t)
	paths := []string{"/usr", "/bin", "/lib", "/lib64", "/etc"}
	if root, _, _ := strings.Cut(programs, "/usr/lib/"); root != "" {
		paths = append(paths, root)
	}
	for i, path := range paths {
		mount(fmt.Sprintf("host%d", i), fmt.Sprintf("hostPath: {path: %q}", path), path)
	}
	mount("run", "emptyDir: {}", "/run/postgresql")
	mount("data", "emptyDir: {}", "/data")
	apply(t, ctx, pod("postgres", fmt.Sprintf(`{terminationGracePeriodSeconds: 1, automountServiceAccountToken: false, volumes: [%s],
	securityContext: {runAsUser: %d, runAsGroup: %[2]d, fsGroup: %[2]d},
	containers: [{name: postgres, image: %q, imagePullPolicy: Never, volumeMounts: [%s], command: [/bin/sh, -c, %q, %q, /data]}]}`,
		strings.Join(volumes, ", "), nobody, serverImage, strings.Join(mounts, ", "), servePostgres, programs)))
	kubectl(t, ctx, "wait", "--for=condition=Ready", "pod/postgres", "--timeout=180s")
}

// query wants the program's port to lead to a PostgreSQL, and ends the program.
func query(t *testing.T, p *program) {
	t.Helper()
	host, port, _ := strings.Cut(p.address(t, 0), ":")
	psql(t, host, port)
	p.interrupt(t)
}

// psql makes a table of some megabytes and counts it, once the server is ready.
func psql(t *testing.T, host, port string) {
	t.Helper()
	run := func(sql string) (string, error) {
		out, err := exec.CommandContext(t.Context(), "psql", "-h", host, "-p", port, "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-Atc", sql).CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	eventually(t, patience, "PostgreSQL is ready", func() bool { got, err := run("SELECT 6*7"); return got == "42" && err == nil })
	if got, err := run("SELECT length(string_agg(md5(i::text), '')) FROM generate_series(1, 200000) i"); got != "6400000" || err != nil {
		t.Errorf("psql: %q, %v", got, err)
	}
	if got, err := run("SELECT repeat('x', 1000) FROM generate_series(1, 20000)"); len(got) != 20000*1001-1 || err != nil {
		t.Errorf("psql: %d bytes, %v", len(got), err)
	}
}
