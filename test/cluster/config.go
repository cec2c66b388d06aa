package cluster

import (
	"context"
	"embed"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"text/template"
)

// configurations are the components' files, as templates over configValues.
//
//go:embed config
var configurations embed.FS

// configValues is what the files under config/ are filled with.
type configValues struct {
	network
	State, RunFolder, Cgroup                            string
	ContainerdSocket                                    string
	PauseImage, Runc, CNIFolder                         string
	CNINetwork, PodBridge                               string
	ClusterDomain                                       string
	KubeletPort, KubeletHealthPort, CoreDNSReadyAddress string
	RestrictOOMScore                                    bool
}

// writeConfiguration writes all that the components read at their start.
func (c *Cluster) writeConfiguration(context.Context) error {
	ca, err := c.writePKI()
	if err != nil {
		return err
	}
	if err := c.writeKubeconfigs(ca); err != nil {
		return err
	}
	values, err := c.configValues()
	if err != nil {
		return err
	}
	if err := c.writeTemplates(values); err != nil {
		return err
	}
	// containerd watches this folder and would read anything in it as a network.
	conf := c.folder.state("cni", "conf")
	if err := os.Mkdir(conf, 0o700); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return os.Rename(c.folder.config("cni.conflist"), filepath.Join(conf, "porthole.conflist"))
}

func (c *Cluster) configValues() (configValues, error) {
	host, err := findPackages()
	if err != nil {
		return configValues{}, err
	}
	return configValues{
		network:             c.record.Network,
		State:               c.folder.state(),
		RunFolder:           runFolder,
		Cgroup:              cgroupName,
		ContainerdSocket:    containerdSocket,
		PauseImage:          pauseImage,
		Runc:                host.Runc,
		CNIFolder:           host.CNIFolder,
		CNINetwork:          cniNetworkName,
		PodBridge:           podBridge,
		ClusterDomain:       clusterDomain,
		KubeletPort:         kubeletPort,
		KubeletHealthPort:   kubeletHealthPort,
		CoreDNSReadyAddress: coreDNSReadyAddress,
		RestrictOOMScore:    !maySetAnyOOMScore(),
	}, nil
}

func (c *Cluster) writeTemplates(values configValues) error {
	templates, err := template.ParseFS(configurations, "config/*")
	if err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	for _, t := range templates.Templates() {
		var content strings.Builder
		if err := t.Execute(&content, values); err != nil {
			return fmt.Errorf("write configuration: %w", err)
		}
		if err := writeFile(c.folder.config(path.Base(t.Name())), []byte(content.String())); err != nil {
			return err
		}
	}
	return nil
}
