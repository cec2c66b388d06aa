package forward

import "time"

const (
	// moveTime is how long a connection counts as in use after bytes have passed. The
	// pauses within a transfer are shorter, those between keep-alives longer.
	moveTime = 500 * time.Millisecond
	// answerTime is how long a client that has spoken last is taken to wait for an answer.
	answerTime = 5 * time.Second
)

// inUse reports whether a connection moves bytes, or is about to: some passed a moment
// ago, or the client has sent a request, or an end of file, that is not answered yet and
// not old. came and went are the times since the last bytes from and to the client.
func inUse(came, went time.Duration, asking bool) bool {
	return min(came, went) < moveTime || asking && min(came, went) < answerTime
}
