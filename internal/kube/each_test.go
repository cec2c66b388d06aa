package kube

import (
	"fmt"
	"strings"
	"testing"
)

// TestPlaces plays changes of a target's pods, and compares which pod has which place. A pod
// with a dash behind it is not ready, one with a cross terminates.
func TestPlaces(t *testing.T) {
	for name, test := range map[string]struct {
		set   *statefulSet
		steps [][2]string // the pods, and the places
	}{
		"a StatefulSet": {&statefulSet{name: "db", end: 3}, [][2]string{
			{"db-2 db-0", "db-0=0 db-2=2"},
			{"db-0 db-1- db-2", "db-0=0 db-1=1 db-2=2"},
			{"db-0 db-2x", "db-0=0 db-1=1 db-2=2"}, // both are made again
			{"db-0 db-1 db-2 db-10 db-9", "db-0=0 db-1=1 db-2=2 db-9=9 db-10=10"},
			{"db-10x", "db-0=0 db-1=1 db-2=2"},
			{"db-x-1 other-0 db- db", "db-0=0 db-1=1 db-2=2"},
		}},
		"with a start": {&statefulSet{name: "db", origin: 5, start: 5, end: 7}, [][2]string{
			{"db-6 db-5", "db-5=0 db-6=1"},
			{"db-6 db-4", "db-5=0 db-6=1"},
		}},
		"a deployment": {nil, [][2]string{
			{"web-b web-a", "web-a=0 web-b=1"},
			{"web-b web-a web-c-", "web-a=0 web-b=1"},
			{"web-b web-ax web-c", "web-c=0 web-b=1"},
			{"web-b- web-c web-d web-e", "web-c=0 web-b=1 web-d=2 web-e=3"},
			{"web-e", "web-e=3"},
			{"web-e web-f", "web-f=0 web-e=3"},
			{"", ""},
		}},
		"pods that come back by name": {nil, [][2]string{
			{"db-0 db-1 db-2 db-10", "db-0=0 db-1=1 db-2=2 db-10=3"},
			{"db-1 db-10", "db-1=1 db-10=3"},
			{"db-1 db-2 db-10", "db-1=1 db-2=2 db-10=3"},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			p := &places{last: map[int]string{}, set: test.set}
			for _, step := range test.steps {
				var all []endpoint
				for _, pod := range strings.Fields(step[0]) {
					e := endpoint{pod: strings.TrimRight(pod, "-x"), ready: !strings.HasSuffix(pod, "-"), terminating: strings.HasSuffix(pod, "x")}
					all = append(all, e)
				}
				p.update(all)
				var got []string
				for _, one := range p.taken {
					got = append(got, fmt.Sprintf("%s=%d", one.pod, one.number))
				}
				if got := strings.Join(got, " "); got != step[1] {
					t.Errorf("with %q: %s, want %s", step[0], got, step[1])
				}
			}
		})
	}
}
