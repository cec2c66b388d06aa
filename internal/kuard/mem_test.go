package kuard

import (
	"net/http"
	"testing"
)

func TestMemory(t *testing.T) {
	const mib = 1 << 20
	s := serve(t, &Server{MemLimit: 64 * mib})
	before := parse[memoryStats](t, s.want(http.StatusOK, "GET", "/mem/api", ""))
	if before.Allocated != 0 || before.Limit != 64*mib || before.Sys == 0 || before.Goroutines == 0 {
		t.Errorf("at first: %+v", before)
	}
	s.want(http.StatusOK, "POST", "/mem/api/alloc?size=41943040", "")
	after := parse[memoryStats](t, s.want(http.StatusOK, "POST", "/mem/api/alloc?size=8388608", ""))
	if after.Allocated != 48*mib || after.Chunks != 2 {
		t.Errorf("after 40 and 8 MiB: %+v", after)
	}
	s.want(http.StatusUnprocessableEntity, "POST", "/mem/api/alloc?size=16777217", "")
	full := parse[memoryStats](t, s.want(http.StatusOK, "POST", "/mem/api/alloc?size=16777216", ""))
	if full.Allocated != full.Limit {
		t.Errorf("filled up: %+v", full)
	}
	cleared := parse[memoryStats](t, s.want(http.StatusOK, "POST", "/mem/api/clear", ""))
	if cleared.Allocated != 0 || cleared.Chunks != 0 {
		t.Errorf("cleared: %+v", cleared)
	}
}

func TestMemoryRefuses(t *testing.T) {
	s := serve(t, &Server{})
	for query, status := range map[string]int{
		"":                           http.StatusBadRequest,
		"?size=":                     http.StatusBadRequest,
		"?size=0":                    http.StatusBadRequest,
		"?size=-4096":                http.StatusBadRequest,
		"?size=1e9":                  http.StatusBadRequest,
		"?size=99999999999999999999": http.StatusBadRequest,
		"?size=9223372036854775807":  http.StatusUnprocessableEntity,
		"?size=1073741825":           http.StatusUnprocessableEntity,
	} {
		s.want(status, "POST", "/mem/api/alloc"+query, "")
	}
	// What is held is counted in pages, so that many small pieces are not free.
	if got := parse[memoryStats](t, s.want(http.StatusOK, "POST", "/mem/api/alloc?size=1", "")); got.Allocated < 4096 {
		t.Errorf("1 byte counts as %d", got.Allocated)
	}
}
