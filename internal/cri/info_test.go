package cri

import (
	"fmt"
	"path/filepath"
	"testing"
)

// What the runtimes put under "info", as far as it matters, with the rest in little.
const (
	containerdInfo = `{"pid":%d,"processStatus":"running","netNamespaceClosed":false,"image":"pause","snapshotter":"overlayfs",` +
		`"config":{"metadata":{"name":"kuard"}},"runtimeSpec":{"ociVersion":"1.3.0","process":{"args":["/pause"]},` +
		`"linux":{"namespaces":[{"type":"pid"},{"type":"ipc"},{"type":"network","path":"%s"}]}},"cniResult":null}`
	containerdHostInfo = `{"pid":%d,"processStatus":"running","runtimeSpec":{"linux":{"namespaces":[{"type":"pid"},{"type":"ipc"}]}}}`
	crioInfo           = `{"image":"pause","pid":%d,"runtimeSpec":{"linux":{"namespaces":[{"type":"network","path":"%s"}]}}}`
)

func TestParseInfo(t *testing.T) {
	for info, want := range map[string]NetNS{
		fmt.Sprintf(containerdInfo, 4947, "/run/netns/cni-1"): {Path: "/run/netns/cni-1", PID: 4947},
		fmt.Sprintf(containerdHostInfo, 4947):                 {PID: 4947},
		fmt.Sprintf(crioInfo, 1, "/var/run/netns/x"):          {Path: "/var/run/netns/x", PID: 1},
		`{}`:                            {},
		``:                              {},
		`null`:                          {},
		`not json`:                      {},
		`{"pid":0}`:                     {},
		`{"pid":-1,"runtimeSpec":null}`: {},
		`{"pid":"7"}`:                   {},
		`{"runtimeSpec":{"linux":{"namespaces":[{"type":"network","path":"relative"}]}}}`:      {},
		`{"runtimeSpec":{"linux":{"namespaces":[{"type":"mount","path":"/run/netns/blue"}]}}}`: {},
	} {
		if got := ParseInfo(map[string]string{"info": info}).NetNS(); got != want {
			t.Errorf("ParseInfo(%s) = %+v, want %+v", info, got, want)
		}
	}
}

func FuzzParseInfo(f *testing.F) {
	f.Add(fmt.Sprintf(containerdInfo, 4947, "/run/netns/cni-1"))
	f.Add(`{"pid":1e3}`)
	f.Fuzz(func(t *testing.T, info string) {
		told := ParseInfo(map[string]string{"info": info}).NetNS()
		if told.PID < 0 || told.Path != "" && !filepath.IsAbs(told.Path) {
			t.Errorf("ParseInfo(%q) = %+v", info, told)
		}
	})
}
