package cluster

import "net"

// Loopback ports are far from the usual ones, which a developer's own etcd or Kubernetes may hold.
const (
	etcdURL               = "http://127.0.0.1:12379"
	etcdPeerURL           = "http://127.0.0.1:12380"
	schedulerPort         = "20259"
	controllerManagerPort = "20257"
	kubeletHealthPort     = "20248"
	coreDNSReadyAddress   = "127.0.0.1:20181"
	apiServerPort         = "6443"
	kubeletPort           = "10250"
	clusterDomain         = "cluster.local"
	serviceCIDR           = "10.201.0.0/24"
	serviceAddress        = "10.201.0.1"
	containerdSocket      = runFolder + "/containerd.sock"
)

// RuntimeEndpoint is containerd's CRI socket as a unix:// URL, whatever socket the kubelet was told to use.
func (c *Cluster) RuntimeEndpoint() string { return "unix://" + containerdSocket }

// NodeIP is the address of the node, of the API server and of the cluster's name server.
func (c *Cluster) NodeIP() string { return c.record.Network.NodeIP }

// Server is the API server's URL.
func (c *Cluster) Server() string {
	return "https://" + net.JoinHostPort(c.NodeIP(), apiServerPort)
}

func (c *Cluster) etcdCommand() []string {
	return []string{
		"etcd",
		"--name=porthole",
		"--data-dir=" + c.folder.state("etcd"),
		"--listen-client-urls=" + etcdURL,
		"--advertise-client-urls=" + etcdURL,
		"--listen-peer-urls=" + etcdPeerURL,
		"--initial-advertise-peer-urls=" + etcdPeerURL,
		"--initial-cluster=porthole=" + etcdPeerURL,
		// Nothing here is meant to survive the machine.
		"--unsafe-no-fsync",
	}
}

func (c *Cluster) containerdCommand() []string {
	return []string{"containerd", "--config", c.folder.config("containerd.toml")}
}

func (c *Cluster) apiServerCommand() []string {
	return []string{
		"kube-apiserver",
		"--etcd-servers=" + etcdURL,
		"--bind-address=" + c.NodeIP(),
		"--advertise-address=" + c.NodeIP(),
		"--secure-port=" + apiServerPort,
		"--service-cluster-ip-range=" + serviceCIDR,
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--anonymous-auth=false",
		"--allow-privileged=true",
		"--profiling=false",
		// Without it, a server that is asked to end waits a minute for watches that never end.
		"--shutdown-watch-termination-grace-period=1s",
		"--cert-dir=" + c.folder.state("pki"),
		"--client-ca-file=" + c.folder.pki("ca.crt"),
		"--tls-cert-file=" + c.folder.pki("apiserver.crt"),
		"--tls-private-key-file=" + c.folder.pki("apiserver.key"),
		"--kubelet-certificate-authority=" + c.folder.pki("ca.crt"),
		"--kubelet-client-certificate=" + c.folder.pki("apiserver-kubelet-client.crt"),
		"--kubelet-client-key=" + c.folder.pki("apiserver-kubelet-client.key"),
		"--kubelet-preferred-address-types=InternalIP",
		"--service-account-issuer=https://kubernetes.default.svc." + clusterDomain,
		"--service-account-key-file=" + c.folder.pki("service-account.pub"),
		"--service-account-signing-key-file=" + c.folder.pki("service-account.key"),
	}
}

func (c *Cluster) controllerManagerCommand() []string {
	kubeconfig := c.folder.kubeconfig("controller-manager")
	return []string{
		"kube-controller-manager",
		"--kubeconfig=" + kubeconfig,
		"--authentication-kubeconfig=" + kubeconfig,
		"--authorization-kubeconfig=" + kubeconfig,
		"--bind-address=127.0.0.1",
		"--secure-port=" + controllerManagerPort,
		"--tls-cert-file=" + c.folder.pki("loopback.crt"),
		"--tls-private-key-file=" + c.folder.pki("loopback.key"),
		"--leader-elect=false",
		"--use-service-account-credentials=true",
		"--service-account-private-key-file=" + c.folder.pki("service-account.key"),
		// The default is a folder on the host that would be made.
		"--flex-volume-plugin-dir=" + c.folder.state("volume-plugins"),
		"--root-ca-file=" + c.folder.pki("ca.crt"),
	}
}

func (c *Cluster) schedulerCommand() []string {
	kubeconfig := c.folder.kubeconfig("scheduler")
	return []string{
		"kube-scheduler",
		"--kubeconfig=" + kubeconfig,
		"--authentication-kubeconfig=" + kubeconfig,
		"--authorization-kubeconfig=" + kubeconfig,
		"--bind-address=127.0.0.1",
		"--secure-port=" + schedulerPort,
		"--tls-cert-file=" + c.folder.pki("loopback.crt"),
		"--tls-private-key-file=" + c.folder.pki("loopback.key"),
		"--leader-elect=false",
	}
}

func (c *Cluster) kubeletCommand() []string {
	endpoint := c.record.Options.RuntimeEndpoint
	if endpoint == "" {
		endpoint = c.RuntimeEndpoint()
	}
	return []string{
		"kubelet",
		"--config=" + c.folder.config("kubelet.yaml"),
		"--kubeconfig=" + c.folder.kubeconfig("kubelet"),
		"--hostname-override=" + NodeName,
		"--node-ip=" + c.NodeIP(),
		"--root-dir=" + c.folder.state("kubelet"),
		"--cert-dir=" + c.folder.state("kubelet", "pki"),
		"--container-runtime-endpoint=" + endpoint,
	}
}

func (c *Cluster) coreDNSCommand() []string {
	return []string{"coredns", "-conf", c.folder.config("Corefile")}
}
