package forward

import "time"

const (
	// moveTime is how long ago bytes may have passed for a connection to count as
	// in use: those of one transfer are closer together, a keep-alive's are not.
	moveTime = 500 * time.Millisecond
	// answerTime is for how long a client that spoke last may be waiting for an
	// answer that is still to come.
	answerTime = 5 * time.Second
)

// inUse says whether something moves, or is about to: bytes passed a moment ago, or
// the client asked, or ended its side, not long ago and has had no answer. The times are since the last
// bytes came from the client and went to it.
func inUse(came, went time.Duration, asking bool) bool {
	return min(came, went) < moveTime || asking && min(came, went) < answerTime
}
