package pinned

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// ErrPublicKey means that a text is no public key.
var ErrPublicKey = errors.New("not a public key")

// PublicKey is the public half of a Key, which others may know (Ed25519, RFC 8032).
type PublicKey [ed25519.PublicKeySize]byte

// encoding is that of keys as text: base64url without padding (RFC 4648, section 5).
var encoding = base64.RawURLEncoding

// ParsePublicKey reads what String returns: 43 characters. Errors: ErrPublicKey.
func ParsePublicKey(text string) (p PublicKey, err error) {
	key, err := encoding.DecodeString(text)
	if err == nil && len(key) == len(p) {
		p = PublicKey(key)
	}
	if p == (PublicKey{}) || p.String() != text { // base64 skips the ends of lines
		return PublicKey{}, fmt.Errorf("%.60q: %w", text, ErrPublicKey)
	}
	return p, nil
}

func (p PublicKey) String() string { return encoding.EncodeToString(p[:]) }

// Key is what one end of a connection proves itself with. It is secret; the zero value proves nothing.
type Key struct {
	private     ed25519.PrivateKey
	certificate tls.Certificate
}

// NewKey makes a key at random.
func NewKey() (Key, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return Key{}, err
	}
	return keyOf(private)
}

// Public returns the half of the key that others may know.
func (k Key) Public() PublicKey { return PublicKey(k.private.Public().(ed25519.PublicKey)) }

// String returns nothing that is secret.
func (k Key) String() string { return "private key of " + k.Public().String() }

// keyOf wraps a key into the certificate that TLS wants, which says nothing else.
func keyOf(private ed25519.PrivateKey) (Key, error) {
	always := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // for ever (RFC 5280, section 4.1.2.5)
	}
	der, err := x509.CreateCertificate(rand.Reader, always, always, private.Public(), private)
	if err != nil {
		return Key{}, fmt.Errorf("make a certificate: %w", err)
	}
	return Key{private, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}}, nil
}
