package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

// webID is the ID of the container of a standInEngine.
var webID = strings.Repeat("0a", 32)

// standInEngine answers as Docker's engine about one container, web.
type standInEngine struct {
	*httptest.Server
	state  atomic.Value // of web, a State
	asked  atomic.Int64 // how often, about web
	events func(io.Writer)
}

func newStandInEngine(t *testing.T) *standInEngine {
	t.Helper()
	s := &standInEngine{}
	s.state.Store(Running)
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	t.Setenv("DOCKER_HOST", "tcp://"+s.Listener.Addr().String())
	return s
}

// ServeHTTP implements http.Handler.
func (s *standInEngine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Api-Version", "1.45")
	switch {
	case strings.HasSuffix(r.URL.Path, "/events"):
		w.(http.Flusher).Flush()
		if s.events != nil {
			s.events(w)
		}
		<-r.Context().Done()
	case strings.HasSuffix(r.URL.Path, "/json"):
		s.asked.Add(1)
		fmt.Fprintf(w, `{"Id": %q, "Name": "/web", "State": {"Status": %q, "Pid": 7, "StartedAt": "2026-01-01T00:00:00Z"}}`, webID, s.state.Load())
	}
}

// open returns a route to web by a helper. It does not follow the engine's events yet.
func (s *standInEngine) open(t *testing.T) (*Route, *member) {
	t.Helper()
	o := &Opener{MaxWait: testenv.Patience}
	o.once.Do(o.init)
	t.Cleanup(o.Close)
	e, err := o.engine(engineKey{scheme: target.Docker})
	if err != nil {
		t.Fatal(err)
	}
	r := newRoute(o, e, target.Forward{Target: target.Target{Scheme: target.Docker, Name: "web"}}, func(route.Event) {})
	all, err := e.find(t.Context(), r.target)
	if err != nil {
		t.Fatal(err)
	}
	m := &member{found: all[0], Result: &route.Result{Route: newHelperRoute(&helperEngine{}, all[0])}, gone: ErrEnded, users: 1}
	m.life, m.end = context.WithCancelCause(r.life)
	r.members = []*member{m}
	r.work.Go(func() { r.awaitEnd(m) })
	r.work.Go(r.keep)
	t.Cleanup(func() { _ = r.Close() })
	return r, m
}

// Whether what fails by a helper passes is for its engine to say: not while the container runs, and if that has ended, or the engine
// is away so that there is no helper.
func TestPassesByHelper(t *testing.T) {
	away := &HelperError{errors.New("no engine")}
	unix := &HelperError{&net.OpError{Op: "dial", Net: "unix", Err: syscall.ECONNREFUSED}} // to the engine, not to the port
	for name, c := range map[string]struct {
		state  State // "" is an engine that is away
		err    error
		passes bool
	}{
		"a port that is closed":                 {Running, syscall.ECONNREFUSED, false},
		"a container that has ended":            {Exited, syscall.ECONNREFUSED, true},
		"one that is paused":                    {Paused, syscall.ECONNREFUSED, true},
		"a helper that fails":                   {Running, away, false},
		"a helper that ends with its container": {Exited, away, true},
		"no engine":                             {"", away, true},
		"no engine listens":                     {"", unix, true},
		"no engine, and a closed port":          {"", syscall.ECONNREFUSED, false},
	} {
		t.Run(name, func(t *testing.T) {
			testenv.NoLeaks(t)
			s := newStandInEngine(t)
			r, m := s.open(t)
			if c.state == "" {
				s.CloseClientConnections()
				s.Close()
			} else {
				s.state.Store(c.state)
			}
			before := s.asked.Load()
			if passes := r.passes(t.Context(), m, c.err); passes != c.passes {
				t.Errorf("passes: %v, want %v", passes, c.passes)
			}
			if c.state != "" && s.asked.Load() == before {
				t.Error("the engine was not asked")
			}
		})
	}
}

// A connection waits for an engine that is away, without which there is no helper, as long as for a container.
func TestWaitForEngine(t *testing.T) {
	testenv.NoLeaks(t)
	s := newStandInEngine(t)
	r, m := s.open(t)
	s.CloseClientConnections()
	s.Close()
	r.opener.MaxWait = 300 * time.Millisecond
	helper := &HelperError{errors.New("no engine")}
	var wait *WaitError
	if err := r.use(t.Context(), func(*member) error { return helper }); !errors.As(err, &wait) || !errors.Is(err, helper) || m.ended() {
		t.Errorf("it ends with %v", err)
	}
}

// However many connections are refused at once, the engine is asked as often as for one.
func TestRefusalsShareALook(t *testing.T) {
	testenv.NoLeaks(t)
	s := newStandInEngine(t)
	r, m := s.open(t)
	before := s.asked.Load()
	var refused sync.WaitGroup
	for range 100 {
		refused.Go(func() {
			if r.passes(t.Context(), m, syscall.ECONNREFUSED) {
				t.Error("the container runs")
			}
		})
	}
	refused.Wait()
	if asked := s.asked.Load() - before; asked < 1 || asked > 20 {
		t.Errorf("asked %d times", asked)
	}
}
