package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"time"
)

// WaitReady returns once every component serves, the node is ready, pods can be created in the
// default namespace, the kubelet knows the pods it has and the name server the API server's service. It ends early when a component is gone.
func (c *Cluster) WaitReady(ctx context.Context) error {
	for _, name := range Components() {
		if err := c.waitComponent(ctx, name); err != nil {
			return err
		}
	}
	for _, wanted := range []struct {
		what  string
		probe func(context.Context) error
	}{
		{"the node is ready", c.probeNode},
		{"the default service account exists", c.probeServiceAccount},
		{"the kubelet knows its pods", c.probePods},
		{"the name server answers", c.probeDNS},
	} {
		if err := waitFor(ctx, wanted.what, wanted.probe); err != nil {
			return err
		}
	}
	return nil
}

// waitFor repeats a probe until it succeeds. The last failure is the error, should time run out first.
func waitFor(ctx context.Context, what string, probe func(context.Context) error) error {
	for {
		err := probe(ctx)
		if err == nil || errors.Is(err, errGone) {
			return err
		}
		if pause(ctx, 50*time.Millisecond) != nil {
			return fmt.Errorf("wait until %s: %w; last seen: %w", what, context.Cause(ctx), err)
		}
	}
}

// errGone ends a wait that would never succeed.
var errGone = errors.New("its process ended")

// waitComponent returns once a component serves.
func (c *Cluster) waitComponent(ctx context.Context, name Component) error {
	p, err := c.process(name)
	if err != nil {
		return fmt.Errorf("wait for %s: %w", name, err)
	}
	client, err := c.httpClient()
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	err = waitFor(ctx, string(name)+" serves", func(ctx context.Context) error {
		if !p.running() {
			return errGone
		}
		return c.probe(ctx, client, name)
	})
	if err != nil {
		return fmt.Errorf("wait for %s: %w\nhint: see %s", name, err, c.folder.log(name))
	}
	return nil
}

// probe asks a component whether it serves.
func (c *Cluster) probe(ctx context.Context, client *http.Client, name Component) error {
	if name == Containerd {
		_, err := c.run(ctx, "ctr", "--address", containerdSocket, "version")
		return err
	}
	if name == Kubelet {
		// It serves this at once, and the port that the API server forwards to a little later.
		if err := get(ctx, client, "http://127.0.0.1:"+kubeletHealthPort+"/healthz", nil); err != nil {
			return err
		}
	}
	return get(ctx, client, map[Component]string{
		Etcd:              etcdURL + "/readyz",
		APIServer:         c.Server() + "/readyz",
		ControllerManager: "https://127.0.0.1:" + controllerManagerPort + "/healthz",
		Scheduler:         "https://127.0.0.1:" + schedulerPort + "/readyz",
		Kubelet:           c.kubeletURL() + "/healthz",
		CoreDNS:           "http://" + coreDNSReadyAddress + "/ready",
	}[name], nil)
}

func (c *Cluster) probeNode(ctx context.Context) error {
	var node struct {
		Status struct {
			Conditions []struct{ Type, Status, Message string }
		}
	}
	if err := c.getAPI(ctx, "/api/v1/nodes/"+NodeName, &node); err != nil {
		return err
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type == "Ready" && condition.Status != "True" {
			return fmt.Errorf("node is not ready: %s", condition.Message)
		}
		if condition.Type == "Ready" {
			return nil
		}
	}
	return errors.New("node has no condition Ready")
}

// probeServiceAccount matters because a pod is refused while its account is missing.
func (c *Cluster) probeServiceAccount(ctx context.Context) error {
	return c.getAPI(ctx, "/api/v1/namespaces/default/serviceaccounts/default", nil)
}

// probePods matters after a start of the kubelet: until it has read its pods from the API server,
// it says of every one that it does not exist.
func (c *Cluster) probePods(ctx context.Context) error {
	client, err := c.httpClient()
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	var assigned, known podList
	if err := get(ctx, client, c.Server()+"/api/v1/pods?fieldSelector=spec.nodeName="+NodeName, &assigned); err != nil {
		return err
	}
	if err := get(ctx, client, c.kubeletURL()+"/pods", &known); err != nil {
		return err
	}
	for _, pod := range assigned.Items {
		if !slices.Contains(known.Items, pod) {
			return fmt.Errorf("the kubelet does not know pod %s", pod.Metadata.Name)
		}
	}
	return nil
}

type podList struct {
	Items []struct {
		Metadata struct{ Name, UID string }
	}
}

func (c *Cluster) kubeletURL() string {
	return "https://" + net.JoinHostPort(c.NodeIP(), kubeletPort)
}

func (c *Cluster) probeDNS(ctx context.Context) error {
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, network, net.JoinHostPort(c.NodeIP(), "53"))
	}}
	found, err := resolver.LookupHost(ctx, "kubernetes.default.svc."+clusterDomain+".")
	if err == nil && (len(found) != 1 || found[0] != serviceAddress) {
		err = fmt.Errorf("the API server's service is at %v", found)
	}
	return err
}

// getAPI reads an object from the API server as the administrator. A nil object is only looked for.
func (c *Cluster) getAPI(ctx context.Context, path string, object any) error {
	client, err := c.httpClient()
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	return get(ctx, client, c.Server()+path, object)
}

func get(ctx context.Context, client *http.Client, url string, object any) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, response.Status)
	}
	if object == nil {
		return nil
	}
	return json.NewDecoder(response.Body).Decode(object)
}

// httpClient has a credential that every component accepts. Nothing of the user's proxies holds here.
func (c *Cluster) httpClient() (*http.Client, error) {
	pair, err := tls.LoadX509KeyPair(c.folder.pki("apiserver-kubelet-client.crt"), c.folder.pki("apiserver-kubelet-client.key"))
	if err != nil {
		return nil, fmt.Errorf("load credential: %w", err)
	}
	ca, err := os.ReadFile(c.folder.pki("ca.crt"))
	if err != nil {
		return nil, fmt.Errorf("load credential: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}},
	}}, nil
}
