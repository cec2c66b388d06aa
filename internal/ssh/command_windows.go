package ssh

import (
	"context"
	"os/exec"
)

// command returns ssh as a command.
func command(ctx context.Context, program string, args []string) *exec.Cmd {
	return exec.CommandContext(ctx, program, args...)
}
