package main

import (
	"encoding/json"
	"strings"
	"testing"

	"porthole.dev/porthole/internal/kube"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
)

// What carries connections is told in one line, with what it left behind and what is to be known of it.
func TestCarried(t *testing.T) {
	dns := target.Address{Network: target.UDP, Port: 53}
	started := route.Event{Kind: route.Carried, Via: target.ViaAgent, Target: "pod/web", Pod: "web", Container: "porthole-1-1", Remote: dns}
	found, other, unread := started, started, started
	found.Found, other.Version = true, "v9"
	unread.Err = &kube.ForbiddenError{Verb: "get", Resource: "pods/log", Namespace: "shop", User: "ann"}
	for want, e := range map[string]route.Event{
		"pod/web: port 53/udp goes through porthole on the pod's node":                                                    {Kind: route.Carried, Via: target.ViaNode, Target: "pod/web", Remote: dns},
		"goes through an agent, which was started in pod web and stays until that ends: ephemeral container porthole-1-1": started,
		"goes through the agent that is in pod web: container porthole-1-1":                                               found,
		"it is version v9, and this one ":                                                                                 other,
		`its key cannot be checked: user "ann" may not get pods/log in namespace shop: forbidden (hint: `:                 unread,
	} {
		out, line := textStyle{}.line(e)
		if out != "" || !strings.Contains(line, want) || strings.Contains(line, "\n") {
			t.Errorf("%q and %q, want %q", out, line, want)
		}
	}
	out, _ := jsonStyle{}.line(unread)
	var j map[string]any
	if err := json.Unmarshal([]byte(out), &j); err != nil {
		t.Fatal(err)
	}
	if j["event"] != "carried" || j["via"] != "agent" || j["container"] != "porthole-1-1" || j["pod"] != "web" || j["remote"] != 53.0 || j["error"] == nil {
		t.Errorf("%s", out)
	}
}
