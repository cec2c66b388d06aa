package spelling_test

import (
	"testing"

	"porthole.dev/porthole/internal/spelling"
)

func TestDistance(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"web", "web", 0}, {"wbe", "web", 2},
		{"portt", "ports", 1}, {"kitten", "sitting", 3},
	} {
		if got := spelling.Distance(tt.a, tt.b); got != tt.want {
			t.Errorf("Distance(%q, %q) = %d, want %d", tt.a, tt.b, got, tt.want)
		}
	}
}

func TestNearest(t *testing.T) {
	known := []string{"address", "as", "namespace", "ports"}
	for word, want := range map[string]string{"namespac": "namespace", "Port": "ports", "xyz": "", "": "", "x": ""} {
		got, ok := spelling.Nearest(word, known)
		if ok != (want != "") || ok && got != want {
			t.Errorf("Nearest(%q) = %q, %v, want %q", word, got, ok, want)
		}
	}
	if _, ok := spelling.Nearest("a", nil); ok {
		t.Error("Nearest of nothing")
	}
}
