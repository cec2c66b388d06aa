package container

import (
	"io"
	"testing"
	"time"

	"porthole.dev/porthole/internal/testenv"
)

// An engine that floods events is asked no more often than it takes to follow a container.
func TestFloodOfEvents(t *testing.T) {
	testenv.NoLeaks(t)
	const most = 2 * lookBurst
	s := newStandInEngine(t)
	over := make(chan time.Time, 1)
	s.events = func(w io.Writer) {
		for s.asked.Load() < most {
			if _, err := io.WriteString(w, `{"Type":"container","Action":"start"}`+"\n"); err != nil {
				return // more is not read of one stream; there is another
			}
		}
		select {
		case over <- time.Now():
		default:
		}
	}
	r, _ := s.open(t)
	began := time.Now()
	r.engine.follow(r)
	// The first one has asked already, and a stream begins with a look.
	if took := (<-over).Sub(began); took < (most-lookBurst-2)*lookPause {
		t.Errorf("asked %d times in %v", most, took)
	}
	_ = r.Close()
}
