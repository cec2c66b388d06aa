package kube

import (
	"cmp"
	"fmt"
	"os"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// EntryError says which entry of the kubeconfig, or which flag in its place, cannot
// be used, and why.
type EntryError struct {
	Entry string // such as cluster "staging"
	Err   error
}

func (e *EntryError) Error() string { return fmt.Sprintf("kubeconfig: %s: %v", e.Entry, e.Err) }

func (e *EntryError) Unwrap() []error { return []error{ErrEntry, e.Err} }

// entryError finds the entry that an error of client-go is about.
func entryError(raw *api.Config, context string, flags *clientcmd.ConfigOverrides, err error) error {
	in := raw.Contexts[context]
	if in == nil {
		in = api.NewContext()
	}
	clusterName := cmp.Or(flags.Context.Cluster, in.Cluster)
	userName := cmp.Or(flags.Context.AuthInfo, in.AuthInfo)
	cluster, user := raw.Clusters[clusterName], raw.AuthInfos[userName]
	switch {
	case cluster == nil && flags.ClusterInfo.Server == "":
		return absent("cluster", clusterName, flags.Context.Cluster != "", context)
	case user == nil && userName != "":
		return absent("user", userName, flags.Context.AuthInfo != "", context)
	}
	if cluster == nil {
		cluster = api.NewCluster()
	}
	if user == nil {
		user = api.NewAuthInfo()
	}
	if err := unreadable(fmt.Sprintf("cluster %q", clusterName), []file{
		{"certificate-authority", flags.ClusterInfo.CertificateAuthority, cluster.CertificateAuthority},
	}); err != nil {
		return err
	}
	if err := unreadable(fmt.Sprintf("user %q", userName), []file{
		{"client-certificate", flags.AuthInfo.ClientCertificate, user.ClientCertificate},
		{"client-key", flags.AuthInfo.ClientKey, user.ClientKey},
		{"tokenFile", flags.AuthInfo.TokenFile, user.TokenFile},
	}); err != nil {
		return err
	}
	return fmt.Errorf("use kubeconfig: %w", err)
}

// absent is the error that no cluster or user has a name, which a flag or a context asks for.
func absent(kind, name string, byFlag bool, context string) error {
	switch {
	case byFlag:
		return &EntryError{Entry: fmt.Sprintf("--%s %q", kind, name), Err: fmt.Errorf("there is no %s of that name", kind)}
	case name == "":
		return &EntryError{Entry: fmt.Sprintf("context %q", context), Err: fmt.Errorf("it names no %s", kind)}
	}
	return &EntryError{Entry: fmt.Sprintf("context %q", context), Err: fmt.Errorf("its %s %q is not there", kind, name)}
}

// file is one that an entry names under a key, unless a flag names another.
type file struct{ key, flag, path string }

// unreadable is the first of an entry's files that cannot be opened, or nil.
func unreadable(entry string, files []file) error {
	for _, f := range files {
		path, where := f.path, entry+": "+f.key
		if f.flag != "" {
			path, where = f.flag, "--"+f.key
		}
		if path == "" {
			continue
		}
		opened, err := os.Open(path)
		if err != nil {
			return &EntryError{Entry: where, Err: err}
		}
		_ = opened.Close()
	}
	return nil
}

// checkUser fails if a context's user does not exist: client-go would send requests
// without credentials.
func checkUser(loader clientcmd.ClientConfig, flags *clientcmd.ConfigOverrides) error {
	raw, err := loader.RawConfig()
	if a := flags.AuthInfo; err != nil || cmp.Or(a.Token, a.Username, a.ClientCertificate) != "" {
		return nil // flags say who it is
	}
	context := cmp.Or(flags.CurrentContext, raw.CurrentContext)
	in := raw.Contexts[context]
	if in == nil || flags.Context.AuthInfo != "" || in.AuthInfo == "" || raw.AuthInfos[in.AuthInfo] != nil {
		return nil
	}
	return absent("user", in.AuthInfo, false, context)
}
