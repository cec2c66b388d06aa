package cri

import (
	"encoding/json"
	"path/filepath"
	"strings"
)

// Info is what containerd and CRI-O put under "info" into the verbose status of a sandbox or
// container, as far as it matters. The CRI does not define it.
type Info struct {
	PID int `json:"pid"`
	// containerd's:
	RuntimeType    string          `json:"runtimeType"`
	RuntimeOptions json.RawMessage `json:"runtimeOptions"` // in a format that depends on the type
	Spec           struct {
		Annotations struct {
			Handler string `json:"io.kubernetes.cri-o.RuntimeHandler"`
		} `json:"annotations"`
		Linux struct {
			Namespaces []struct {
				Type string `json:"type"`
				Path string `json:"path"`
			} `json:"namespaces"`
		} `json:"linux"`
	} `json:"runtimeSpec"`
}

// ParseInfo reads the info of a verbose status. The result is empty if that is malformed.
func ParseInfo(info map[string]string) *Info {
	var i Info
	if json.Unmarshal([]byte(info["info"]), &i) != nil {
		return &Info{}
	}
	i.PID = max(i.PID, 0)
	return &i
}

// NetNS says where the network namespace is.
func (i *Info) NetNS() NetNS {
	told := NetNS{PID: i.PID}
	for _, n := range i.Spec.Linux.Namespaces {
		if n.Type == "network" && filepath.IsAbs(n.Path) {
			told.Path = n.Path
		}
	}
	return told
}

// OwnKernel says whether the network of a pod is not that of its Linux namespace: in a
// virtual machine, or in a program that acts as the pod's kernel. If containerd reports
// what runs it, only runc and its replacements are known to leave it there. Otherwise
// the handler's name decides.
func (i *Info) OwnKernel(handler string) bool {
	if i.RuntimeType == "" {
		return OwnKernelByName(handler)
	}
	var options struct {
		BinaryName string `json:"binary_name"`
	}
	_ = json.Unmarshal(i.RuntimeOptions, &options) // there need not be any
	return OwnKernelByType(i.RuntimeType) || OwnKernelByName(filepath.Base(options.BinaryName))
}

// OwnKernelByType is OwnKernel by the type of containerd's runtime, such as io.containerd.runc.v2.
func OwnKernelByType(runtime string) bool {
	return !strings.HasPrefix(runtime, "io.containerd.runc.") && runtime != "io.containerd.runtime.v1.linux"
}

// OwnKernelByName recognizes the names of such runtimes' handlers and programs, which
// have the hypervisor's or the platform's name added: kata-qemu, runsc-kvm.
func OwnKernelByName(name string) bool {
	name = strings.ToLower(name)
	for _, word := range []string{"kata", "gvisor", "runsc", "firecracker"} {
		if strings.Contains(name, word) {
			return true
		}
	}
	return false
}
