package kuard

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// settle waits until the run has ended by itself.
func settle(t *testing.T, s *site) keygenStatus {
	t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if st := parse[keygenStatus](t, s.want(http.StatusOK, "GET", "/keygen", "")); !st.Config.Enabled {
			return st
		}
	}
	t.Fatal("the run does not end")
	return keygenStatus{}
}

func TestKeygenMakesSoMany(t *testing.T) {
	s := serve(t, &Server{})
	if st := parse[keygenStatus](t, s.want(http.StatusOK, "GET", "/keygen", "")); st.Config.Enabled || st.Generated != 0 || st.History == nil {
		t.Errorf("at first: %+v", st)
	}
	for _, c := range []struct {
		kind  string
		count int
	}{{"ecdsa", 50}, {"ed25519", 3}, {"rsa", 1}} {
		s.want(http.StatusOK, "PUT", "/keygen", fmt.Sprintf(`{"enabled":true,"kind":%q,"numToGen":%d,"timeToRun":3600}`, c.kind, c.count))
		st := settle(t, s)
		if st.Generated != c.count || len(st.History) != min(c.count, keygenHistory) || st.Seconds <= 0 {
			t.Errorf("%s: %+v", c.kind, st)
			continue
		}
		if k := st.History[0]; k.ID != c.count || k.Kind != c.kind || !strings.HasPrefix(k.Fingerprint, "SHA256:") || k.Time.IsZero() {
			t.Errorf("%s: the last key is %+v", c.kind, k)
		}
	}
}

func TestKeygenEndsInTime(t *testing.T) {
	s := serve(t, &Server{})
	s.want(http.StatusOK, "POST", "/keygen", `{"enabled":true,"kind":"ed25519","numToGen":0,"timeToRun":1}`)
	if st := settle(t, s); st.Generated == 0 || st.Seconds < .9 || st.Seconds > 60 {
		t.Errorf("got %d keys in %.1f s", st.Generated, st.Seconds)
	}
}

func TestKeygenStops(t *testing.T) {
	s := serve(t, &Server{})
	s.want(http.StatusOK, "POST", "/keygen", `{"enabled":true,"kind":"ecdsa","numToGen":0,"timeToRun":3600}`)
	again := parse[keygenStatus](t, s.want(http.StatusOK, "POST", "/keygen", `{"enabled":true}`))
	if !again.Config.Enabled || again.Config.TimeToRun != 3600 || again.Config.Kind != "ecdsa" {
		t.Errorf("a field left out does not keep its value: %+v", again.Config)
	}
	stopped := parse[keygenStatus](t, s.want(http.StatusOK, "POST", "/keygen", `{"enabled":false}`))
	time.Sleep(50 * time.Millisecond)
	later := parse[keygenStatus](t, s.want(http.StatusOK, "GET", "/keygen", ""))
	if stopped.Config.Enabled || later.Config.Enabled || later.Generated != stopped.Generated {
		t.Errorf("stopped at %d, and then there were %d", stopped.Generated, later.Generated)
	}
}

// The run must end with the server: TestMain finds the goroutine if it does not.
func TestKeygenEndsWithTheServer(t *testing.T) {
	s := serve(t, &Server{})
	s.want(http.StatusOK, "POST", "/keygen", `{"enabled":true,"kind":"ecdsa","numToGen":0,"timeToRun":3600}`)
}

func TestKeygenRefuses(t *testing.T) {
	s := serve(t, &Server{})
	for _, body := range []string{
		`{"kind":"dsa"}`, `{"kind":""}`, `{"numToGen":-1}`, `{"numToGen":1000001}`, `{"timeToRun":0}`, `{"timeToRun":3601}`, `{"enabled":"yes"}`,
	} {
		s.want(http.StatusBadRequest, "POST", "/keygen", body)
	}
	if st := parse[keygenStatus](t, s.want(http.StatusOK, "GET", "/keygen", "")); st.Config.Enabled || st.Config.TimeToRun != defaultKeyTime {
		t.Errorf("what was refused is in effect: %+v", st.Config)
	}
}
