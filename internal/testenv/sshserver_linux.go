package testenv

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// SSHServer is a real sshd of OpenSSH, with a key and a client's configuration of its own, in which
// it is the host "box". It takes root.
type SSHServer struct {
	Address string   // to listen on, an IP address
	Port    uint16   // likewise
	Dir     string   // for its files
	Env     []string // of its sessions, as NAME=VALUE; nil for the usual
	Within  []string // a command that starts another, such as nsenter with its options; nil for none

	cmd *exec.Cmd
}

// sshdHere runs sshd in a mount namespace in which there are the user that its unprivileged part
// is (sshd(8)) and an empty directory for that: packages make them where they install it.
const sshdHere = `set -e
mkdir -p /run/sshd && mount -t tmpfs -o mode=0755 none /run/sshd
if ! grep -q ^sshd: /etc/passwd; then
	{ cat /etc/passwd; echo sshd:x:65530:65534::/run/sshd:/usr/sbin/nologin; } > "$1/passwd"
	chmod 0644 "$1/passwd"
	mount --bind "$1/passwd" /etc/passwd
fi
exec "$2" -D -e -f "$1/sshd_config"`

// SSHD returns the path of sshd: $PORTHOLE_SSHD, or where it is installed.
func SSHD() (string, error) {
	return exec.LookPath(cmp.Or(os.Getenv("PORTHOLE_SSHD"), "/usr/sbin/sshd"))
}

// Start makes keys and files where there are none yet, and starts the server.
func (s *SSHServer) Start() error {
	sshd, err := SSHD()
	if err != nil {
		return err
	}
	if _, err := os.Stat(s.File("config")); err != nil {
		if err := s.prepare(); err != nil {
			return err
		}
	}
	log, err := os.OpenFile(s.File("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	// Mounts of the host, such as of namespaces, have to appear inside.
	args := append(append([]string(nil), s.Within...), "unshare", "--mount", "--propagation", "slave", "sh", "-c", sshdHere, "sh", s.Dir, sshd)
	s.cmd = exec.Command(args[0], args[1:]...)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		return err
	}
	if err := s.await(); err != nil {
		s.Stop()
		text, _ := os.ReadFile(s.File("log"))
		return fmt.Errorf("sshd: %w\n%s", err, text)
	}
	return nil
}

// await waits until the server listens.
func (s *SSHServer) await() error {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", fmt.Sprintf("%s:%d", s.Address, s.Port))
		if err == nil {
			return conn.Close()
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
}

// File returns the path of a file of the server: the client's "config" (ssh -F), the server's
// "sshd_config", its "log", "host" and "user" for the keys.
func (s *SSHServer) File(name string) string { return filepath.Join(s.Dir, name) }

func (s *SSHServer) prepare() error {
	for _, key := range []string{"host", "user"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", s.File(key)).CombinedOutput(); err != nil {
			return fmt.Errorf("ssh-keygen: %w: %s", err, out)
		}
	}
	user, userErr := os.ReadFile(s.File("user.pub"))
	host, hostErr := os.ReadFile(s.File("host.pub"))
	environment := ""
	if s.Env != nil {
		environment = "SetEnv " + strings.Join(s.Env, " ") + "\n"
	}
	write := func(name, format string, args ...any) error {
		return os.WriteFile(s.File(name), fmt.Appendf(nil, format, args...), 0o600)
	}
	return errors.Join(userErr, hostErr,
		write("authorized", "%s", user),
		write("known", "[%s]:%d %s", s.Address, s.Port, host),
		write("sshd_config", "Port %d\nListenAddress %s\nHostKey %s\nAuthorizedKeysFile %s\nStrictModes no\nPidFile none\nUsePAM no\nPermitRootLogin yes\nMaxStartups 100\n%s",
			s.Port, s.Address, s.File("host"), s.File("authorized"), environment),
		write("config", "Host box\nHostName %s\nPort %d\nUser root\nIdentityFile %s\nUserKnownHostsFile %s\nIdentitiesOnly yes\nBatchMode yes\n",
			s.Address, s.Port, s.File("user"), s.File("known")),
	)
}

// Stop kills the server. Its sessions live on: each has a process of its own.
func (s *SSHServer) Stop() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

var owner = regexp.MustCompile(`"sshd[^"]*",pid=(\d+)`)

// KillSessions kills the processes that serve the server's sessions.
func (s *SSHServer) KillSessions() error {
	args := append(append([]string(nil), s.Within...), "ss", "-Htnp", "sport", "=", strconv.Itoa(int(s.Port)))
	out, err := exec.Command(args[0], args[1:]...).Output()
	if err != nil {
		return fmt.Errorf("%v: %w", args, err)
	}
	for _, m := range owner.FindAllSubmatch(out, -1) {
		pid, _ := strconv.Atoi(string(m[1]))
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
	return nil
}
