//go:build unix

package ssh

import (
	"context"
	"os/exec"
	"slices"
)

// command returns ssh as a command that ignores the signals by which a terminal ends all its
// programs at once, so that connections have time to finish. A signal that is ignored when ssh
// starts stays ignored (client_loop of OpenSSH). It stays in the terminal's foreground, where it
// may ask for a password.
func command(ctx context.Context, program string, args []string) *exec.Cmd {
	return exec.CommandContext(ctx, "sh", slices.Concat([]string{"-c", `trap "" INT QUIT HUP; exec "$@"`, "sh", program}, args)...)
}
