package kuard

import (
	"io"
	"net/http"
	"sync"
	"time"
)

const (
	probeHistory = 50
	// maxFailNext keeps a slip of the finger from being forever; -1 says forever.
	maxFailNext = 1000
	// maxAgent bounds what a stranger's User-Agent may occupy.
	maxAgent = 120
)

// probe answers one kind of Kubernetes probe, and fails when it was told to.
// The zero value succeeds. Its methods are safe for concurrent use.
type probe struct {
	mu       sync.Mutex
	failNext int // how many more to fail; -1 is all of them
	asked    int
	failed   int
	history  history[probing]
}

// probing is one time that somebody asked.
type probing struct {
	ID     int       `json:"id"` // counts from 1
	Time   time.Time `json:"time"`
	Status int       `json:"status"`
	Remote string    `json:"remote"`
	Agent  string    `json:"agent"`
}

// probeStatus is the JSON of /healthy/api and /ready/api.
type probeStatus struct {
	FailNext int       `json:"failNext"`
	Asked    int       `json:"asked"`
	Failed   int       `json:"failed"`
	History  []probing `json:"history"` // newest first
}

// serveAsk is what the kubelet asks: 200 is well, 500 is not.
func (p *probe) serveAsk(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if p.ask(r) == http.StatusOK {
		_, _ = io.WriteString(w, "ok\n")
		return
	}
	w.WriteHeader(http.StatusInternalServerError)
	_, _ = io.WriteString(w, "failing, as it was told to\n")
}

// ask counts and records one probing, and returns its status.
func (p *probe) ask(r *http.Request) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked++
	status := http.StatusOK
	if p.failNext != 0 {
		p.failed++
		status = http.StatusInternalServerError
	}
	if p.failNext > 0 {
		p.failNext--
	}
	agent := r.UserAgent()
	p.history.add(probing{p.asked, time.Now(), status, r.RemoteAddr, agent[:min(len(agent), maxAgent)]}, probeHistory)
	return status
}

func (p *probe) show(*http.Request) (any, error) { return p.status(), nil }

func (p *probe) status() probeStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	return probeStatus{p.failNext, p.asked, p.failed, p.history.newestFirst()}
}

// serveSet takes {"failNext": N}: 0 succeeds, -1 fails always, more fails the next N.
func (p *probe) serveSet(r *http.Request) (any, error) {
	var set struct {
		FailNext *int `json:"failNext"`
	}
	if err := decode(r, &set); err != nil {
		return nil, err
	}
	if set.FailNext == nil || *set.FailNext < -1 || *set.FailNext > maxFailNext {
		return nil, refuse(http.StatusBadRequest, "set the probe: failNext must be a number from -1 (always) to %d", maxFailNext)
	}
	p.mu.Lock()
	p.failNext = *set.FailNext
	p.mu.Unlock()
	return p.status(), nil
}
