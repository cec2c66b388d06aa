package demo

import (
	"fmt"
	"net/netip"
	"strings"
)

// nobody is the user that the application runs as, and its group.
const nobody = 65534

// What the pod sees of its cluster. The names are Kubernetes' own defaults.
const (
	hostname      = "kuard"
	clusterDomain = "cluster.local"
	namespace     = "default"
)

// serviceIP is where a real cluster's API server would be; nothing answers.
func serviceIP() netip.Addr { return netip.AddrFrom4([4]byte{10, 96, 0, 1}) }

// clusterHosts are the names that the pod's DNS knows, by full name.
func clusterHosts(podIP netip.Addr) map[string]netip.Addr {
	dashed := strings.ReplaceAll(podIP.String(), ".", "-")
	return map[string]netip.Addr{
		serviceName(hostname):     podIP,
		serviceName("kubernetes"): serviceIP(),
		fmt.Sprintf("%s.%s.pod.%s", dashed, namespace, clusterDomain): podIP,
	}
}

// clusterPointers are the names that the pod's DNS gives to addresses.
func clusterPointers(podIP netip.Addr) map[netip.Addr]string {
	return map[netip.Addr]string{
		podIP:       serviceName(hostname),
		serviceIP(): serviceName("kubernetes"),
	}
}

func serviceName(service string) string {
	return fmt.Sprintf("%s.%s.svc.%s", service, namespace, clusterDomain)
}

// podFiles are the files of the pod's file system, by path below its root,
// as a kubelet and a small image would leave them. A pod without a bridge has
// no address and no name server.
func podFiles(podIP, bridgeIP netip.Addr) map[string]string {
	if !podIP.IsValid() {
		podIP, bridgeIP = netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return map[string]string{
		"etc/hostname": hostname + "\n",
		"etc/hosts": "# Kubernetes-managed hosts file.\n" +
			"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" +
			podIP.String() + "\t" + hostname + "\n",
		"etc/resolv.conf": fmt.Sprintf("search %[1]s.svc.%[2]s svc.%[2]s %[2]s\nnameserver %[3]s\noptions ndots:5\n",
			namespace, clusterDomain, bridgeIP),
		"etc/nsswitch.conf": "hosts: files dns\n",
		"etc/passwd":        fmt.Sprintf("root:x:0:0:root:/:/sbin/nologin\nnobody:x:%[1]d:%[1]d:nobody:/:/sbin/nologin\n", nobody),
		"etc/group":         fmt.Sprintf("root:x:0:\nnobody:x:%d:\n", nobody),
		"etc/os-release":    "NAME=\"Porthole demo pod\"\nID=porthole\nPRETTY_NAME=\"Porthole demo pod\"\n",
	}
}

// podEnv is the environment that a kubelet gives to a container.
func podEnv() []string {
	ip := serviceIP().String()
	return []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOSTNAME=" + hostname,
		"HOME=/",
		"KUBERNETES_SERVICE_HOST=" + ip,
		"KUBERNETES_SERVICE_PORT=443",
		"KUBERNETES_SERVICE_PORT_HTTPS=443",
		"KUBERNETES_PORT=tcp://" + ip + ":443",
		"KUBERNETES_PORT_443_TCP=tcp://" + ip + ":443",
		"KUBERNETES_PORT_443_TCP_PROTO=tcp",
		"KUBERNETES_PORT_443_TCP_PORT=443",
		"KUBERNETES_PORT_443_TCP_ADDR=" + ip,
	}
}
