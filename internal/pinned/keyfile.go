package pinned

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// The errors of LoadKey, beside those of package os.
var (
	// ErrDamaged means that there is no key in a key's file.
	ErrDamaged = errors.New("the file is damaged: it has no Ed25519 key")
	// ErrExposed means that others may read a key's file.
	ErrExposed = errors.New("others may read the file")
)

const (
	pemType = "PRIVATE KEY"
	maxFile = 4 << 10
)

// LoadKey reads a key from a file (PEM, PKCS #8), or makes it if there is none, with mode 0600 in a
// folder with 0700. Of several that make it at once, all get the same key. The error names the file; it
// wraps ErrDamaged, ErrExposed or an error of package os.
func LoadKey(path string) (k Key, made bool, err error) {
	if k, err = readKey(path); errors.Is(err, fs.ErrNotExist) {
		if made, err = makeKey(path); err == nil {
			k, err = readKey(path)
		}
	}
	if err != nil {
		return Key{}, false, fmt.Errorf("key %s: %w", path, err)
	}
	return k, made, nil
}

func readKey(path string) (Key, error) {
	f, err := os.Open(path)
	if err != nil {
		return Key{}, withoutPath(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Key{}, withoutPath(err)
	}
	if mode := info.Mode().Perm(); runtime.GOOS != "windows" && mode&0o077 != 0 {
		return Key{}, fmt.Errorf("%w: its mode is %04o", ErrExposed, mode)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return Key{}, withoutPath(err)
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != pemType {
		return Key{}, ErrDamaged
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	private, ok := parsed.(ed25519.PrivateKey)
	if err != nil || !ok {
		return Key{}, ErrDamaged
	}
	return keyOf(private)
}

// makeKey writes a new key to a file, and reports whether it has: somebody else may have been
// quicker. The file appears complete, since it gets its name afterwards.
func makeKey(path string) (made bool, err error) {
	key, err := NewKey()
	if err != nil {
		return false, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key.private)
	if err != nil {
		return false, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return false, err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // with mode 0600
	if err != nil {
		return false, err
	}
	defer os.Remove(f.Name())
	err = pem.Encode(f, &pem.Block{Type: pemType, Bytes: der})
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return false, err
	}
	if err = os.Link(f.Name(), path); errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	return err == nil, err
}

// withoutPath is an error without the name of the file, which LoadKey has.
func withoutPath(err error) error {
	var e *fs.PathError
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}
