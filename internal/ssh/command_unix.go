//go:build unix

package ssh

import (
	"context"
	"os/exec"
	"slices"
)

// command starts ssh without an ear for the signals by which a terminal ends all its programs at
// once: connections have time to finish first. ssh leaves signals ignored that are (client_loop
// of OpenSSH). It stays in the terminal's foreground, where it may ask for a password.
func command(ctx context.Context, program string, args []string) *exec.Cmd {
	return exec.CommandContext(ctx, "sh", slices.Concat([]string{"-c", `trap "" INT QUIT HUP; exec "$@"`, "sh", program}, args)...)
}
