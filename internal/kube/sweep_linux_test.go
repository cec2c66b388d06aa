package kube_test

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// counted is the sum of a metric of the API server's, over what has a label.
func (s *apiServer) counted(t testing.TB, metric, label string) (total int) {
	t.Helper()
	for line := range strings.Lines(string(s.must(t, http.MethodGet, "/metrics", nil))) {
		if !strings.HasPrefix(line, metric+"{") || !strings.Contains(line, label) {
			continue
		}
		_, count, _ := strings.Cut(line, "} ")
		n, err := strconv.ParseFloat(strings.TrimSpace(count), 64)
		if err != nil {
			t.Fatal(err)
		}
		total += int(n)
	}
	return total
}

// A user who may not see pods asks once whether those that are none of the target's any
// more still exist, and then leaves it for minutes.
func TestStrayPodsCostLittle(t *testing.T) {
	n := newNamespace(t)
	n.grant("svcuser", "get services", "list,watch endpointslices.discovery.k8s.io", "create pods/portforward")
	n.newService(nil)
	var members []member
	for _, pod := range []string{"web-1", "web-2", "web-3", "web-4"} {
		n.newReady(pod)
		members = append(members, member{pod: pod, ready: true})
	}
	n.setSlice(8080, members...)
	j := n.opened(t, "svcuser", "svc/web")
	j.eventually("[web-1:8080 web-2:8080 web-3:8080 web-4:8080]")
	n.setSlice(8080, members[3])
	j.eventually("[web-4:8080]")
	denied := func() int { return n.counted(t, "authorization_attempts_total", `result="no-opinion"`) }
	asked := func() int { return n.counted(t, "apiserver_request_total", `resource="selfsubjectreviews"`) }
	deniedBefore, askedBefore := denied(), asked()
	for end := time.Now().Add(time.Minute); denied() == deniedBefore; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it was not asked whether the pods exist still")
		}
	}
	time.Sleep(6 * time.Second) // another sweep would have come
	if got := denied() - deniedBefore; got != 1 {
		t.Errorf("%d requests were denied, want 1", got)
	}
	if got := asked() - askedBefore; got != 0 {
		t.Errorf("%d times it was asked who the user is", got)
	}
}
