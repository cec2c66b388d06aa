package kuard

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

func TestProbeFailsAndRecovers(t *testing.T) {
	for _, path := range []string{"/healthy", "/ready"} {
		t.Run(path, func(t *testing.T) {
			s := serve(t, &Server{})
			if got := s.want(http.StatusOK, "GET", path, "").body; got != "ok\n" {
				t.Errorf("body %q", got)
			}
			s.want(http.StatusOK, "PUT", path+"/api", `{"failNext":2}`)
			s.want(http.StatusInternalServerError, "GET", path, "", "User-Agent", "kube-probe/1.34")
			s.want(http.StatusInternalServerError, "HEAD", path, "")
			s.want(http.StatusOK, "GET", path, "")
			s.want(http.StatusOK, "POST", path+"/api", `{"failNext":-1}`)
			for range 5 {
				s.want(http.StatusInternalServerError, "GET", path, "")
			}
			s.want(http.StatusOK, "POST", path+"/api", `{"failNext":0}`)
			s.want(http.StatusOK, "GET", path, "")

			st := parse[probeStatus](t, s.want(http.StatusOK, "GET", path+"/api", ""))
			if st.FailNext != 0 || st.Asked != 10 || st.Failed != 7 {
				t.Errorf("got %+v", st)
			}
			second := st.History[len(st.History)-2]
			if second.ID != 2 || second.Status != 500 || second.Agent != "kube-probe/1.34" ||
				!strings.HasPrefix(second.Remote, "127.0.0.1:") || second.Time.IsZero() {
				t.Errorf("the second probing is %+v", second)
			}
		})
	}
}

func TestProbesAreTwo(t *testing.T) {
	s := serve(t, &Server{})
	s.want(http.StatusOK, "POST", "/healthy/api", `{"failNext":-1}`)
	s.want(http.StatusInternalServerError, "GET", "/healthy", "")
	s.want(http.StatusOK, "GET", "/ready", "")
}

func TestProbeRefuses(t *testing.T) {
	s := serve(t, &Server{})
	for _, body := range []string{`{}`, `{"failNext":null}`, `{"failNext":-2}`, `{"failNext":1001}`, `{"failNext":1.5}`, `{"failNext":"3"}`, `null`} {
		s.want(http.StatusBadRequest, "POST", "/healthy/api", body)
	}
	s.want(http.StatusOK, "GET", "/healthy", "")
}

func TestProbeHistoryIsBounded(t *testing.T) {
	s := serve(t, &Server{})
	long := strings.Repeat("x", 10*maxAgent)
	for range probeHistory + 25 {
		s.want(http.StatusOK, "GET", "/healthy", "", "User-Agent", long)
	}
	st := parse[probeStatus](t, s.want(http.StatusOK, "GET", "/healthy/api", ""))
	if len(st.History) != probeHistory || st.Asked != probeHistory+25 {
		t.Errorf("%d kept of %d", len(st.History), st.Asked)
	}
	for i, h := range st.History {
		if h.ID != st.Asked-i || len(h.Agent) > maxAgent {
			t.Fatalf("entry %d is %s", i, fmt.Sprint(h))
		}
	}
}
