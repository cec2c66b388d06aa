package kube_test

import (
	"errors"
	"strings"
	"testing"

	"porthole.dev/porthole/internal/kube"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

// What a stock node does not carry is told at the start, and before anything listens.
func TestStockNode(t *testing.T) {
	n := newNamespace(t)
	n.newReady("kuard")
	testenv.NoLeaks(t)
	opener := &kube.Opener{Config: &kube.Config{Kubeconfig: n.kubeconfig(t, "admin", n.name)}}
	defer opener.Close()
	for ports, unsupported := range map[string]bool{
		"53:53/udp": true, "5432:/run/x.sock": true, "8080,53:dns/udp": true, "8080": false,
	} {
		f := target.Forward{Target: target.Target{Scheme: target.Kubernetes, Resource: "pod", Name: "kuard"}}
		f.Ports = parsePorts(t, ports)
		result, err := opener.Open(t.Context(), f, func(route.Event) {})
		var stock *kube.NodeError
		if unsupported && (!errors.As(err, &stock) || !errors.Is(err, target.ErrUnsupported) || stock.Pod != "kuard") {
			t.Errorf("%s: %v, want a NodeError", ports, err)
		}
		if !unsupported && err != nil {
			t.Errorf("%s: %v", ports, err)
		}
		if result != nil {
			// As if a port had been asked for while another node had the pod.
			_, err = result.Dial(t.Context(), target.Address{Network: target.UDP, Port: 53})
			if !errors.As(err, &stock) {
				t.Errorf("Dial = %v, want a NodeError", err)
			}
			_ = result.Close()
		}
	}
}

func parsePorts(t *testing.T, list string) (all []target.Port) {
	t.Helper()
	for item := range strings.SplitSeq(list, ",") {
		ports, err := target.ParseNamedPorts(item)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, ports...)
	}
	return all
}
