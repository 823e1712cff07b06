package auth

import (
	"context"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/MicahParks/jwkset"
	"golang.org/x/time/rate"
)

const (
	// refreshEvery is how old an issuer's keys grow before they are fetched again although all tokens name known ones: so long may a
	// key go on being accepted that the issuer has withdrawn.
	refreshEvery = time.Hour
	// maxKeySetBytes bounds a discovery document and a set of keys.
	maxKeySetBytes = 1 << 20
	// minRSABits is the shortest RSA key that is accepted, as in RFC 7518, 3.3.
	minRSABits = 2048
)

// keySet is the public keys of an issuer. Whoever looks for a key is answered at once: an unknown key, or keys that are old,
// begin a fetch in the background, at most one at a time and one an interval. It is safe for concurrent use.
type keySet struct {
	fetch   func(context.Context) ([]byte, error)
	cfg     IssuersConfig
	name    string
	limiter *rate.Limiter

	current  atomic.Pointer[keys]
	fetching atomic.Bool
}

// keys is what was fetched, by key id.
type keys struct {
	byID map[string]publicKey
	at   time.Time
}

type publicKey struct {
	key       any
	algorithm string // the only one it is for; empty: any of its kind
}

// openKeys begins to fetch the keys of an issuer. A file is read at once, so that its faults are an error.
func openKeys(e issuerEntry, cfg IssuersConfig) (*keySet, error) {
	s := &keySet{cfg: cfg, name: e.Name, limiter: rate.NewLimiter(rate.Every(cfg.RefetchEvery), 1)}
	s.current.Store(&keys{})
	switch {
	case e.JWKS == "":
		s.fetch = func(ctx context.Context) ([]byte, error) { return discover(ctx, cfg.Client, e.Issuer) }
	case strings.Contains(e.JWKS, "://"):
		s.fetch = func(ctx context.Context) ([]byte, error) { return get(ctx, cfg.Client, e.JWKS) }
	default:
		s.fetch = func(context.Context) ([]byte, error) { return os.ReadFile(e.JWKS) }
		return s, s.load(context.Background())
	}
	s.refetch()
	return s, nil
}

// find returns the key with an id for an algorithm.
func (s *keySet) find(id, algorithm string) (any, error) {
	s.refreshIfOld()
	k, known := s.current.Load().byID[id]
	if !known {
		if s.refetch() {
			return nil, ErrKeysPending
		}
		return nil, errUnknownKey
	}
	if k.algorithm != "" && k.algorithm != algorithm {
		return nil, errUnknownKey
	}
	return k.key, nil
}

// refreshIfOld begins a fetch where the keys have grown old.
func (s *keySet) refreshIfOld() {
	if s.cfg.Now().Sub(s.current.Load().at) > refreshEvery {
		s.refetch()
	}
}

// refetch begins a fetch where the interval allows it, and says whether one is under way.
func (s *keySet) refetch() bool {
	if s.fetching.Load() {
		return true
	}
	if !s.limiter.Allow() || !s.fetching.CompareAndSwap(false, true) {
		return s.fetching.Load()
	}
	go func() {
		defer s.fetching.Store(false)
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		err := s.load(ctx)
		s.cfg.Fetched(s.name, err)
		if err != nil {
			s.cfg.Log.Warn("keys of a token issuer could not be fetched; those fetched before stay in force", "issuer", s.name, "err", err)
		}
	}()
	return true
}

// load fetches the keys and puts them in force.
func (s *keySet) load(ctx context.Context) error {
	data, err := s.fetch(ctx)
	if err != nil {
		return fmt.Errorf("fetch keys: %w", err)
	}
	byID, err := parseKeys(data)
	if err != nil {
		return err
	}
	s.current.Store(&keys{byID: byID, at: s.cfg.Now()})
	return nil
}

// parseKeys reads a JSON Web Key Set. Keys that cannot verify a signature are left out: those for encryption, secrets, RSA keys
// that are too short.
func parseKeys(data []byte) (map[string]publicKey, error) {
	var set jwkset.JWKSMarshal
	if err := json.Unmarshal(data, &set); err != nil {
		return nil, fmt.Errorf("read keys: %w", err)
	}
	byID := map[string]publicKey{}
	for _, marshalled := range set.Keys {
		jwk, err := jwkset.NewJWKFromMarshal(marshalled, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{})
		if err != nil || marshalled.KID == "" || marshalled.USE == jwkset.UseEnc || marshalled.KTY == jwkset.KtyOct {
			continue // another key of the set may be good
		}
		if k, ok := jwk.Key().(*rsa.PublicKey); ok && k.N.BitLen() < minRSABits {
			continue
		}
		byID[marshalled.KID] = publicKey{jwk.Key(), marshalled.ALG.String()}
	}
	if len(byID) == 0 {
		return nil, errors.New("read keys: there is no public key for signatures with a kid among them")
	}
	return byID, nil
}

// discover fetches the keys that an issuer's discovery document names (OpenID Connect Discovery 1.0, section 4).
func discover(ctx context.Context, client *http.Client, issuerURL string) ([]byte, error) {
	data, err := get(ctx, client, strings.TrimSuffix(issuerURL, "/")+"/.well-known/openid-configuration")
	if err != nil {
		return nil, err
	}
	var doc struct {
		Issuer  string `json:"issuer"`
		JWKSURI string `json:"jwks_uri"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("read discovery document: %w", err)
	}
	if doc.Issuer != issuerURL {
		return nil, errors.New("the discovery document is of another issuer")
	}
	if !secureURL(doc.JWKSURI) {
		return nil, errors.New("the discovery document names no https URL of keys")
	}
	return get(ctx, client, doc.JWKSURI)
}

func get(ctx context.Context, client *http.Client, address string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", address, resp.Status)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxKeySetBytes+1))
	if err == nil && len(data) > maxKeySetBytes {
		err = fmt.Errorf("%s answers with more than %d bytes", address, maxKeySetBytes)
	}
	return data, err
}
