package agent

import (
	"runtime/debug"
	"sync"
	"time"
)

// idleMemory gives memory back to the system when nothing has been used for a while. start comes
// first, and stop last.
type idleMemory struct {
	after time.Duration
	drop  func() // what the caller keeps for later

	mu    sync.Mutex
	uses  int
	timer *time.Timer
	armed bool // timer runs
}

func (m *idleMemory) start(after time.Duration, drop func()) {
	m.after, m.drop = after, drop
	m.timer = time.AfterFunc(after, m.giveBack)
	m.armed = true
}

func (m *idleMemory) stop() { m.timer.Stop() }

// use and unuse enclose what needs memory.
func (m *idleMemory) use() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.uses++
	m.timer.Stop()
	m.armed = false
}

func (m *idleMemory) unuse() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.uses--; m.uses == 0 {
		m.timer.Reset(m.after)
		m.armed = true
	}
}

// touch says that some memory was needed for a moment. It delays nothing: strangers come when they
// like.
func (m *idleMemory) touch() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.uses == 0 && !m.armed {
		m.timer.Reset(m.after)
		m.armed = true
	}
}

func (m *idleMemory) giveBack() {
	m.mu.Lock()
	m.armed = false
	used := m.uses > 0
	m.mu.Unlock()
	if used {
		return
	}
	m.drop()
	debug.FreeOSMemory() // which empties pools at the latest with the second collection
	debug.FreeOSMemory()
	dropProgram()
}
