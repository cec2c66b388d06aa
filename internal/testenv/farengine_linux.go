package testenv

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"porthole.dev/porthole/internal/target"
)

// farAPI is where a FarEngine listens in its own network.
const farAPI = 2376

// alone runs a command in a network namespace, and in mount and process namespaces of its own, of which all ends with it.
const alone = `net=$1; shift
nsenter --net="$net" unshare --mount --pid --fork --kill-child --mount-proc "$@" & child=$!
trap 'kill -KILL $child' TERM
wait $child`

// FarEngine is an engine as on another machine: it has a file system view, processes and a network of its own, so that the numbers
// of its containers' processes mean nothing here.
type FarEngine struct {
	*Engine
	Address string // of its API by TCP with TLS, here
	TLS     string // the folder with ca.pem, cert.pem and key.pem for it
}

// NewFarDocker starts Docker's engine like that, until the test ends.
func NewFarDocker(t testing.TB) *FarEngine {
	t.Helper()
	pod := NewPod(t)
	far := &FarEngine{Engine: newDocker(t)}
	far.TLS = filepath.Join(far.Dir, "tls")
	if err := makeCertificates(far.TLS); err != nil {
		t.Fatal(err)
	}
	inside := []string{"sh", "-c", alone, "sh", fmt.Sprintf("/proc/%d/ns/net", pod.PID)}
	far.command = append(append(inside, far.command...), "-H", fmt.Sprintf("tcp://127.0.0.1:%d", farAPI), "--tlsverify",
		"--tlscacert", far.TLS+"/ca.pem", "--tlscert", far.TLS+"/server-cert.pem", "--tlskey", far.TLS+"/server-key.pem")
	far.begin(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	far.Address = l.Addr().String()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go carry(conn, pod)
		}
	}()
	return far
}

// carry carries a connection into the engine's network.
func carry(conn net.Conn, pod *Pod) {
	defer conn.Close()
	there, err := pod.NS.Dial(context.Background(), target.TCPPort(farAPI))
	if err != nil {
		return
	}
	defer there.Close()
	// Not by splice(2), whose pipes are kept for a while.
	go func() { _, _ = io.Copy(struct{ io.Writer }{there}, conn); there.Close() }()
	_, _ = io.Copy(struct{ io.Writer }{conn}, there)
}

// makeCertificates makes an authority, and certificates of a server at 127.0.0.1 and of a client.
func makeCertificates(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	ca := &x509.Certificate{Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	caKey, err := certify(filepath.Join(dir, "ca"), ca, ca, nil)
	if err != nil {
		return err
	}
	server := &x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	client := &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	_, serverErr := certify(filepath.Join(dir, "server-cert"), server, ca, caKey)
	_, clientErr := certify(filepath.Join(dir, "cert"), client, ca, caKey)
	return errors.Join(serverErr, clientErr, os.Rename(dir+"/server-cert-key.pem", dir+"/server-key.pem"), os.Rename(dir+"/cert-key.pem", dir+"/key.pem"))
}

// certify makes a key, and a certificate that is signed with the authority's, or with the key itself if that is nil. The files
// are PATH.pem and PATH-key.pem.
func certify(path string, of, by *x509.Certificate, byKey *ecdsa.PrivateKey) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	if byKey == nil {
		byKey = key
	}
	of.SerialNumber = big.NewInt(time.Now().UnixNano())
	of.NotBefore, of.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, of, by, &key.PublicKey, byKey)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, errors.Join(
		os.WriteFile(path+".pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(path+"-key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600))
}
