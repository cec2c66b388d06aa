package cluster

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"regexp"
)

// Kubeconfig is the path of the administrator's kubeconfig: it may do everything.
func (c *Cluster) Kubeconfig() string { return c.folder.kubeconfig("admin") }

// UserKubeconfig makes a user who is known by a client certificate and may do only what RBAC
// grants to the name or the groups; it returns the path of the user's kubeconfig.
func (c *Cluster) UserKubeconfig(name string, groups ...string) (string, error) {
	if !regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`).MatchString(name) {
		return "", fmt.Errorf("make user %q: not usable in a file's name", name)
	}
	ca, err := loadAuthority(c.folder)
	if err != nil {
		return "", err
	}
	file := "user-" + name
	return c.folder.kubeconfig(file), c.writeKubeconfig(ca, file, identity{User: name, Groups: groups})
}

// writeKubeconfigs makes those of the administrator and of the components.
func (c *Cluster) writeKubeconfigs(ca *authority) error {
	for file, who := range map[string]identity{
		"admin":              {User: "admin", Groups: []string{"system:masters"}},
		"controller-manager": {User: "system:kube-controller-manager"},
		"scheduler":          {User: "system:kube-scheduler"},
		"kubelet":            {User: "system:node:" + NodeName, Groups: []string{"system:nodes"}},
		"coredns":            {User: "system:coredns"},
	} {
		if err := c.writeKubeconfig(ca, file, who); err != nil {
			return err
		}
	}
	return nil
}

// kubeconfigTemplate has everything in one file, so that it can be copied anywhere.
const kubeconfigTemplate = `apiVersion: v1
kind: Config
current-context: porthole
contexts:
- name: porthole
  context: {cluster: porthole, user: %[3]s}
clusters:
- name: porthole
  cluster:
    server: %[1]s
    certificate-authority-data: %[2]s
users:
- name: %[3]s
  user:
    client-certificate-data: %[4]s
    client-key-data: %[5]s
`

func (c *Cluster) writeKubeconfig(ca *authority, file string, who identity) error {
	pair, err := ca.issue(who)
	if err != nil {
		return err
	}
	root := encodePEM("CERTIFICATE", ca.certificate.Raw)
	user, err := json.Marshal(who.User)
	if err != nil {
		return fmt.Errorf("write kubeconfig: %w", err)
	}
	encode := base64.StdEncoding.EncodeToString
	content := fmt.Sprintf(kubeconfigTemplate, c.Server(), encode(root), user, encode(pair.Certificate), encode(pair.Key))
	return writeFile(c.folder.kubeconfig(file), []byte(content))
}
