package target_test

import (
	"errors"
	"testing"

	"porthole.dev/porthole/internal/target"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]target.Target{
		"pid://1":                  {Scheme: target.PID, PID: 1},
		"pid://4947":               {Scheme: target.PID, PID: 4947},
		"netns://blue":             {Scheme: target.NetNS, Path: "/run/netns/blue"},
		"netns:///run/netns/blue":  {Scheme: target.NetNS, Path: "/run/netns/blue"},
		"netns:///proc/7/ns/../ns": {Scheme: target.NetNS, Path: "/proc/7/ns"},
		"kuard":                    object("pod", "kuard"),
		"my.pod-1":                 object("pod", "my.pod-1"),
		"pod/kuard":                object("pod", "kuard"),
		"Pod/kuard":                object("pod", "kuard"),
		"svc/web":                  object("svc", "web"),
		"deployments.v1.apps/web":  object("deployments.v1.apps", "web"),
		"host://db.internal":       {Scheme: target.RemoteHost, Name: "db.internal"},
		"host://DB_1.internal./":   {Scheme: target.RemoteHost, Name: "DB_1.internal."},
		"host://10.0.0.7":          {Scheme: target.RemoteHost, Name: "10.0.0.7"},
		"host://[fd00::7]":         {Scheme: target.RemoteHost, Name: "fd00::7"},
		"docker://web_1.a-b":       {Scheme: target.Docker, Name: "web_1.a-b"},
		"docker://0a1b":            {Scheme: target.Docker, Name: "0a1b"},
		"docker://shop/Web.1":      {Scheme: target.Docker, Name: "shop/Web.1"},
		"podman://Web/":            {Scheme: target.Podman, Name: "Web"},
		"containerd://web":         {Scheme: target.Containerd, Name: "web"},
		"containerd://k8s.io/web":  {Scheme: target.Containerd, Namespace: "k8s.io", Name: "web"},
		"cri://kuard":              {Scheme: target.CRI, Name: "kuard"},
		"cri://default/kuard":      {Scheme: target.CRI, Namespace: "default", Name: "kuard"},
	} {
		got, err := target.Parse(text)
		if err != nil || got != want {
			t.Errorf("Parse(%q) = %+v, %v, want %+v", text, got, err, want)
		}
	}
}

func object(resource, name string) target.Target {
	return target.Target{Scheme: target.Kubernetes, Resource: resource, Name: name}
}

func TestParseRejects(t *testing.T) {
	for text, unknown := range map[string]bool{
		"":                  true,
		"Blue":              true,
		"blue/":             true,
		"/blue":             true,
		"a/b/c":             true,
		"pod/..":            true,
		"pod/a%2fb":         true,
		"pod/-a":            true,
		"a_b":               true,
		"pid:4947":          true,
		"ftp://x":           true,
		"PID://1":           true,
		"pid://":            false,
		"pid://0":           false,
		"pid://-1":          false,
		"pid://+1":          false,
		"pid://2147483648":  false,
		"pid://self":        false,
		"netns://":          false,
		"netns://..":        false,
		"netns://../blue":   false,
		"netns://blue/red":  false,
		"netns:///a\x00b":   false,
		"netns://bl\x00ue":  false,
		"pid://4947/ns/net": false,
		"host://":           false,
		"host:///":          false,
		"host://db:5432":    false,
		"host://[::1]:80":   false,
		"host://10.0.0.1:1": false,
		"host://fd00::7":    false,
		"host://[db]":       false,
		"host://10.0.0":     false,
		"host://a/b":        false,
		"host://u@db":       false,
		"host://-db":        false,
		"host://db\x00":     false,
		"docker://":         false,
		"docker:///":        false,
		"docker://-a":       false,
		"docker:///web":     false,
		"docker://a/b/c":    false,
		"docker://a:80":     false,
		"podman://a b":      false,
		"containerd:///a":   false,
		"cri://a\x00":       false,
	} {
		got, err := target.Parse(text)
		if err == nil {
			t.Errorf("Parse(%q) = %+v, want an error", text, got)
		}
		if errors.Is(err, target.ErrUnknown) != unknown {
			t.Errorf("Parse(%q): %v: ErrUnknown is %v, want %v", text, err, !unknown, unknown)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"pid://4947", "netns://blue", "netns:///run/netns/blue", "netns:////..", "pid://007", "host://db.internal", "host://[fd00::7]", "host://db:5432", "host://[::1]:80", "host://10.0.0.7/", "kuard", "deploy.apps/web", "docker://shop/web", "containerd://k8s.io/web"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		parsed, err := target.Parse(text)
		if err != nil {
			return
		}
		again, err := target.Parse(parsed.String())
		if err != nil || again != parsed {
			t.Fatalf("Parse(%q) = %+v, but Parse(%q) = %+v, %v", text, parsed, parsed, again, err)
		}
	})
}
