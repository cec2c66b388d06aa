package cluster

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"time"
)

// authority signs every certificate of the cluster.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// keyPair is a certificate and its key, both in PEM.
type keyPair struct {
	Certificate, Key []byte
}

// identity is who a certificate speaks for. Kubernetes takes the common name for the user
// and the organizations for the groups.
type identity struct {
	User   string
	Groups []string
	// Hosts make it a server's certificate too: names and addresses.
	Hosts []string
}

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make authority: %w", err)
	}
	template := certificateTemplate(pkix.Name{CommonName: "porthole-cluster"})
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make authority: %w", err)
	}
	certificate, err := x509.ParseCertificate(der)
	return &authority{certificate: certificate, key: key}, err
}

// certificateTemplate begins an hour ago, for a clock that is set back, and lasts longer than any cluster here.
func certificateTemplate(subject pkix.Name) *x509.Certificate {
	// A failing random source ends the program by itself, see crypto/rand.
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      subject,
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().AddDate(1, 0, 0),
	}
}

// issue makes a key and signs its certificate.
func (a *authority) issue(who identity) (keyPair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return keyPair{}, fmt.Errorf("make key of %s: %w", who.User, err)
	}
	template := certificateTemplate(pkix.Name{CommonName: who.User, Organization: who.Groups})
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if len(who.Hosts) > 0 {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	for _, host := range who.Hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
			continue
		}
		template.DNSNames = append(template.DNSNames, host)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		return keyPair{}, fmt.Errorf("sign certificate of %s: %w", who.User, err)
	}
	encoded, err := encodeKey(key)
	return keyPair{Certificate: encodePEM("CERTIFICATE", der), Key: encoded}, err
}

func encodePEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return encodePEM("PRIVATE KEY", der), nil
}

func encodePublicKey(key crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return encodePEM("PUBLIC KEY", der), nil
}

// loadAuthority reads back what writeAuthority wrote, for users that are made later.
func loadAuthority(f folder) (*authority, error) {
	certificate, err := readPEM(f.pki("ca.crt"))
	if err != nil {
		return nil, err
	}
	key, err := readPEM(f.pki("ca.key"))
	if err != nil {
		return nil, err
	}
	parsedCertificate, err := x509.ParseCertificate(certificate)
	if err != nil {
		return nil, fmt.Errorf("read authority: %w", err)
	}
	parsedKey, err := x509.ParsePKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("read authority: %w", err)
	}
	signer, ok := parsedKey.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New("read authority: its key is not of its own making")
	}
	return &authority{certificate: parsedCertificate, key: signer}, nil
}

func readPEM(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read authority: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("read authority: no PEM in %s", path)
	}
	return block.Bytes, nil
}

func writeAuthority(f folder, a *authority) error {
	key, err := encodeKey(a.key)
	if err != nil {
		return err
	}
	return errors.Join(
		writeFile(f.pki("ca.crt"), encodePEM("CERTIFICATE", a.certificate.Raw)),
		writeFile(f.pki("ca.key"), key),
	)
}

func writeKeyPair(f folder, name string, pair keyPair) error {
	return errors.Join(
		writeFile(f.pki(name+".crt"), pair.Certificate),
		writeFile(f.pki(name+".key"), pair.Key),
	)
}

// writePKI makes all certificates that the components name in their flags.
func (c *Cluster) writePKI() (*authority, error) {
	ca, err := newAuthority()
	if err != nil {
		return nil, err
	}
	if err := errors.Join(writeAuthority(c.folder, ca), writeServiceAccountKey(c.folder)); err != nil {
		return nil, err
	}
	kubernetes := "kubernetes.default.svc"
	for name, who := range map[string]identity{
		"apiserver": {User: "kube-apiserver", Hosts: []string{
			c.NodeIP(), serviceAddress, "127.0.0.1", "localhost",
			"kubernetes", "kubernetes.default", kubernetes, kubernetes + "." + clusterDomain,
		}},
		"loopback":                 {User: "loopback", Hosts: []string{"127.0.0.1"}},
		"apiserver-kubelet-client": {User: "kube-apiserver", Groups: []string{"system:masters"}},
		"kubelet":                  {User: "system:node:" + NodeName, Groups: []string{"system:nodes"}, Hosts: []string{c.NodeIP(), NodeName}},
	} {
		pair, err := ca.issue(who)
		if err != nil {
			return nil, err
		}
		if err := writeKeyPair(c.folder, name, pair); err != nil {
			return nil, err
		}
	}
	return ca, nil
}

// writeServiceAccountKey makes the key that signs the pods' tokens; it needs no certificate.
func writeServiceAccountKey(f folder) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make service account key: %w", err)
	}
	private, err := encodeKey(key)
	if err != nil {
		return err
	}
	public, err := encodePublicKey(key.Public())
	if err != nil {
		return err
	}
	return errors.Join(
		writeFile(f.pki("service-account.key"), private),
		writeFile(f.pki("service-account.pub"), public),
	)
}
