package portforward

import (
	"time"

	"golang.org/x/sys/unix"
)

// asleep is how long the machine has slept since it was started: CLOCK_BOOTTIME counts
// that time and CLOCK_MONOTONIC, which Go's timers and time.Since go by, does not
// (clock_gettime(2)). The wall clock has no part in it.
func asleep() time.Duration {
	var boot, awake unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &awake) != nil || unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot) != nil {
		return 0
	}
	return time.Duration(boot.Nano() - awake.Nano())
}
