package kube

import (
	"math"
	"testing"
)

// The counter of turns starts again after its last number, on every machine.
func TestTurnsStartAgain(t *testing.T) {
	to := portRef{number: 80}
	c := newBalancer(roundRobin, 0)
	c.turn[to] = math.MaxUint - 2
	pods := []endpoint{{pod: "a", uid: "a", ready: true}, {pod: "b", uid: "b", ready: true}, {pod: "c", uid: "c", ready: true}}
	seen := map[string]int{}
	for range 6 {
		e, ok := c.pick(pods, to)
		if !ok {
			t.Fatal("none is chosen")
		}
		seen[e.pod]++
	}
	if len(seen) != 3 {
		t.Errorf("chosen %v, want all", seen)
	}
}

// Ports that are asked for in turn do not take each other's turns.
func TestTurnsOfTwoPorts(t *testing.T) {
	c := newBalancer(roundRobin, 0)
	pods := []endpoint{{pod: "a", uid: "a", ready: true}, {pod: "b", uid: "b", ready: true}}
	seen := map[string]int{}
	for range 6 {
		e, _ := c.pick(pods, portRef{number: 80})
		_, _ = c.pick(pods, portRef{number: 81})
		seen[e.pod]++
	}
	if seen["a"] != 3 || seen["b"] != 3 {
		t.Errorf("the first port's connections come to %v", seen)
	}
}
