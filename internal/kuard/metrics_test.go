package kuard

import (
	"net/http"
	"strings"
	"testing"
)

func TestMetrics(t *testing.T) {
	s := serve(t, &Server{})
	s.want(http.StatusOK, "GET", "/healthy", "")
	s.want(http.StatusOK, "GET", "/healthy", "")
	s.want(http.StatusNotFound, "GET", "/nosuch/1", "")
	s.want(http.StatusNotFound, "GET", "/nosuch/2", "")
	s.want(http.StatusNotFound, "GET", "/fs/nosuch", "")
	s.want(http.StatusForbidden, "POST", "/keygen", "{}", "Sec-Fetch-Site", "cross-site")
	got := s.want(http.StatusOK, "GET", "/metrics", "").body
	for _, want := range []string{
		`kuard_requests_total{code="200",route="GET /healthy"} 2`,
		`kuard_requests_total{code="404",route="none"} 2`,
		`kuard_requests_total{code="404",route="GET /fs/{path...}"} 1`,
		`kuard_requests_total{code="403",route="none"} 1`,
		`kuard_request_duration_seconds_count{route="GET /healthy"} 2`,
		"\ngo_goroutines ",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in the metrics", want)
		}
	}
	if strings.Contains(got, "nosuch") {
		t.Error("a path became a label")
	}
}
