//go:build !linux

package portforward

import "time"

var began = time.Now()

// asleep is by how much the wall clock is ahead of the monotonic one, which stands still
// while the machine sleeps. That somebody has set the wall clock looks the same here, and
// costs no more than a ping.
func asleep() time.Duration { return time.Since(began.Round(0)) - time.Since(began) }
