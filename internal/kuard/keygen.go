package kuard

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"net/http"
	"sync"
	"time"
)

const (
	keygenHistory   = 20
	maxKeys         = 1_000_000
	maxKeygenTime   = 3600 // seconds
	defaultKeyTime  = 20   // seconds
	defaultKeyCount = 25
)

// keygen is a workload that keeps one processor busy: it makes keys and throws them away.
// The zero value is idle. Its methods are safe for concurrent use.
type keygen struct {
	// switching is held while a run is started or stopped, mu only for a look at what follows it.
	switching sync.Mutex
	cancel    context.CancelFunc // nil before the first run
	done      chan struct{}      // closed when the run has ended

	mu        sync.Mutex
	config    *keygenConfig // nil before the first set
	generated int
	started   time.Time
	ended     time.Time
	history   history[keyMade]
}

// keygenConfig is the JSON that /keygen takes. A field left out keeps its value.
type keygenConfig struct {
	Enabled   bool   `json:"enabled"`
	Kind      string `json:"kind"`      // "rsa", "ecdsa" or "ed25519"
	NumToGen  int    `json:"numToGen"`  // keys; 0 means as many as the time allows
	TimeToRun int    `json:"timeToRun"` // seconds
}

// keyMade is a key that was made.
type keyMade struct {
	ID          int       `json:"id"` // counts from 1 in each run
	Time        time.Time `json:"time"`
	Kind        string    `json:"kind"`
	Fingerprint string    `json:"fingerprint"` // of the public key
	Millis      float64   `json:"millis"`      // how long it took
}

// keygenStatus is the JSON that /keygen answers with.
type keygenStatus struct {
	Config    keygenConfig `json:"config"` // enabled is true while keys are being made
	Generated int          `json:"generated"`
	Seconds   float64      `json:"seconds"` // how long the run has taken
	History   []keyMade    `json:"history"` // newest first
}

func (k *keygen) show(*http.Request) (any, error) { return k.status(), nil }

func (k *keygen) status() keygenStatus {
	k.mu.Lock()
	defer k.mu.Unlock()
	st := keygenStatus{Config: k.current(), Generated: k.generated, History: k.history.newestFirst()}
	switch {
	case st.Config.Enabled:
		st.Seconds = time.Since(k.started).Seconds()
	case !k.started.IsZero():
		st.Seconds = k.ended.Sub(k.started).Seconds()
	}
	return st
}

// current returns the configuration or the defaults. The caller holds mu.
func (k *keygen) current() keygenConfig {
	if k.config == nil {
		return keygenConfig{Kind: "rsa", NumToGen: defaultKeyCount, TimeToRun: defaultKeyTime}
	}
	return *k.config
}

// serveSet stops what runs, and starts a new run when the request says enabled.
func (k *keygen) serveSet(r *http.Request) (any, error) {
	k.mu.Lock()
	c := k.current()
	k.mu.Unlock()
	c.Enabled = false
	if err := decode(r, &c); err != nil {
		return nil, err
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	k.set(c)
	return k.status(), nil
}

func (c keygenConfig) check() error {
	switch {
	case c.Kind != "rsa" && c.Kind != "ecdsa" && c.Kind != "ed25519":
		return refuse(http.StatusBadRequest, "generate keys: kind %q is not rsa, ecdsa or ed25519", c.Kind)
	case c.NumToGen < 0 || c.NumToGen > maxKeys:
		return refuse(http.StatusBadRequest, "generate keys: numToGen must be from 0 to %d", maxKeys)
	case c.TimeToRun < 1 || c.TimeToRun > maxKeygenTime:
		return refuse(http.StatusBadRequest, "generate keys: timeToRun must be from 1 to %d seconds", maxKeygenTime)
	}
	return nil
}

func (k *keygen) set(c keygenConfig) {
	k.switching.Lock()
	defer k.switching.Unlock()
	k.halt()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.config = &c
	if c.Enabled {
		k.start(c)
	}
}

func (k *keygen) stop() {
	k.switching.Lock()
	defer k.switching.Unlock()
	k.halt()
}

// halt ends the run and waits for that: a key in the making cannot be interrupted.
// The caller holds switching, and not mu.
func (k *keygen) halt() {
	if k.cancel != nil {
		k.cancel()
		<-k.done
	}
}

// start begins a run that outlives the request. The caller holds switching and mu.
func (k *keygen) start(c keygenConfig) {
	k.generated, k.started, k.history = 0, time.Now(), history[keyMade]{}
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(c.TimeToRun)*time.Second)
	done := make(chan struct{})
	k.cancel, k.done = cancel, done
	go func() {
		defer close(done)
		defer cancel()
		k.run(ctx, c)
	}()
}

func (k *keygen) run(ctx context.Context, c keygenConfig) {
	for i := 1; ctx.Err() == nil && (c.NumToGen == 0 || i <= c.NumToGen); i++ {
		start := time.Now()
		sum := fingerprint(newKey(c.Kind))
		k.record(keyMade{i, time.Now(), c.Kind, sum, float64(time.Since(start).Microseconds()) / 1000})
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.config.Enabled, k.ended = false, time.Now()
}

func (k *keygen) record(made keyMade) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.generated = made.ID
	k.history.add(made, keygenHistory)
}

// newKey makes a key and returns the public half. crypto/rand does not fail, so neither does this.
func newKey(kind string) crypto.PublicKey {
	switch kind {
	case "rsa":
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			return nil
		}
		return key.Public()
	case "ecdsa":
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil
		}
		return key.Public()
	}
	public, _, _ := ed25519.GenerateKey(rand.Reader)
	return public
}

func fingerprint(public crypto.PublicKey) string {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(der)
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
}
