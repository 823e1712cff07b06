package auth_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"

	"usaged/api/auth"
)

var noon = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)

// provider is an OpenID Connect provider on a loopback port.
type provider struct {
	*httptest.Server
	fetches atomic.Int64

	mu   sync.Mutex
	keys map[string]crypto.PublicKey
	away bool
}

func newProvider(t *testing.T) *provider {
	t.Helper()
	p := &provider{keys: map[string]crypto.PublicKey{}}
	p.Server = httptest.NewServer(p)
	t.Cleanup(p.Close)
	return p
}

func (p *provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.away:
		w.WriteHeader(http.StatusServiceUnavailable)
	case r.URL.Path == "/.well-known/openid-configuration":
		fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, p.URL, p.URL+"/keys")
	default:
		p.fetches.Add(1)
		w.Write(keySet(p.keys))
	}
}

// publish adds a key.
func (p *provider) publish(id string, key crypto.PublicKey) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keys[id] = key
}

func keySet(keys map[string]crypto.PublicKey) []byte {
	var set jwkset.JWKSMarshal
	for id, key := range keys {
		jwk, err := jwkset.NewJWKFromKey(key, jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{KID: id}})
		if err != nil {
			panic(err)
		}
		set.Keys = append(set.Keys, jwk.Marshal())
	}
	data, err := json.Marshal(set)
	if err != nil {
		panic(err)
	}
	return data
}

func newECKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newRSAKey(t *testing.T, bits int) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// sign makes a token. change may alter what a good one has.
func sign(t *testing.T, method jwt.SigningMethod, key any, issuer string, change func(header map[string]any, claims jwt.MapClaims)) string {
	t.Helper()
	claims := jwt.MapClaims{
		"iss": issuer, "aud": []string{"other", "usaged"}, "sub": "u-17", "email": "ann@example.com", "email_verified": true,
		"exp": noon.Add(time.Hour).Unix(), "iat": noon.Unix(), "groups": []string{"staff", "platform"},
		"realm_access": map[string]any{"roles": []string{"seen"}},
	}
	token := jwt.NewWithClaims(method, claims)
	token.Header["kid"] = "k1"
	if change != nil {
		change(token.Header, claims)
	}
	signed, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

const acme = `- name: acme
  issuer: %s
  audience: usaged
  user_claim: email
  role_claim: groups
  roles:
  - {value: platform, role: admin}
  - {value: staff, role: viewer}
  default_role: user
`

// loadIssuers loads a file whose keys are fetched again after an interval at the earliest.
func loadIssuers(t *testing.T, text string, every time.Duration) *auth.Issuers {
	t.Helper()
	s, err := auth.LoadIssuers(issuersFile(t, text), auth.IssuersConfig{Now: func() time.Time { return noon }, RefetchEvery: every})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func issuersFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "issuers.yml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestVerify(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	key, rsaKey, shortKey, stranger := newECKey(t), newRSAKey(t, 2048), newRSAKey(t, 1024), newECKey(t)
	p.publish("k1", key.Public())
	p.publish("rsa", rsaKey.Public())
	p.publish("short", shortKey.Public())
	s := loadIssuers(t, fmt.Sprintf(acme, p.URL), time.Hour)
	es := func(change func(h map[string]any, c jwt.MapClaims)) string {
		return sign(t, jwt.SigningMethodES256, key, p.URL, change)
	}
	header := func(name string, value any) string {
		return es(func(h map[string]any, _ jwt.MapClaims) { h[name] = value })
	}
	claim := func(name string, value any) string {
		return es(func(_ map[string]any, c jwt.MapClaims) { c[name] = value })
	}
	without := func(name string) string { return es(func(_ map[string]any, c jwt.MapClaims) { delete(c, name) }) }
	good := es(nil)
	eventually(t, s, good)
	for _, tc := range []struct {
		name, token, says string
		want              auth.Token
	}{
		{"takes the first role that fits", good, "", auth.Token{Name: "acme/ann@example.com", Role: auth.RoleAdmin, UserID: "ann@example.com"}},
		{"takes the default role", claim("groups", "guests"), "", auth.Token{Name: "acme/ann@example.com", Role: auth.RoleUser, UserID: "ann@example.com"}},
		{"takes a role that is text", claim("groups", "staff"), "", auth.Token{Name: "acme/ann@example.com", Role: auth.RoleViewer, UserID: "ann@example.com"}},
		{"takes RSA", sign(t, jwt.SigningMethodPS256, rsaKey, p.URL, func(h map[string]any, _ jwt.MapClaims) { h["kid"] = "rsa" }), "",
			auth.Token{Name: "acme/ann@example.com", Role: auth.RoleAdmin, UserID: "ann@example.com"}},
		{"allows for clocks that differ", claim("exp", noon.Add(-20*time.Second).Unix()), "",
			auth.Token{Name: "acme/ann@example.com", Role: auth.RoleAdmin, UserID: "ann@example.com"}},
		{"refuses an expired one", claim("exp", noon.Add(-31*time.Second).Unix()), "expired", auth.Token{}},
		{"refuses one without exp", without("exp"), "lacks", auth.Token{}},
		{"refuses one that is not valid yet", claim("nbf", noon.Add(time.Minute).Unix()), "nbf", auth.Token{}},
		{"refuses one of the future", claim("iat", noon.Add(time.Minute).Unix()), "iat", auth.Token{}},
		{"refuses another audience", claim("aud", "other"), "audience", auth.Token{}},
		{"refuses one without audience", without("aud"), "lacks", auth.Token{}},
		{"refuses another issuer", claim("iss", "https://elsewhere.example.com"), "issuer that is not", auth.Token{}},
		{"refuses one without issuer", without("iss"), "issuer that is not", auth.Token{}},
		{"refuses an address that is not verified", claim("email_verified", false), "not verified", auth.Token{}},
		{"refuses a user that is no text", claim("email", 7), "names no user", auth.Token{}},
		{"refuses a user with control characters", claim("email", "a\x1b[2J"), "names no user", auth.Token{}},
		{"refuses a long user", claim("email", strings.Repeat("a", 300)), "names no user", auth.Token{}},
		{"refuses one without kid", header("kid", nil), "kid is missing", auth.Token{}},
		{"refuses an unknown kid", header("kid", "k2"), "does not publish", auth.Token{}},
		{"refuses a kid that is a path", header("kid", "../../../../dev/null"), "does not publish", auth.Token{}},
		{"refuses jku", header("jku", p.URL+"/keys"), "never followed", auth.Token{}},
		{"refuses x5u", header("x5u", p.URL+"/keys"), "never followed", auth.Token{}},
		{"refuses jwk", header("jwk", map[string]any{"kty": "EC"}), "never followed", auth.Token{}},
		{"refuses crit", header("crit", []string{"b64"}), "never followed", auth.Token{}},
		{"refuses the signature of another key", sign(t, jwt.SigningMethodES256, stranger, p.URL, nil), "signature", auth.Token{}},
		{"refuses none", sign(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, p.URL, nil), "signature", auth.Token{}},
		{"refuses a public key as a secret", sign(t, jwt.SigningMethodHS256, keySet(p.keys), p.URL, nil), "signature", auth.Token{}},
		{"refuses a key of another kind", sign(t, jwt.SigningMethodES256, key, p.URL, func(h map[string]any, _ jwt.MapClaims) { h["kid"] = "rsa" }), "signature", auth.Token{}},
		{"refuses a short RSA key", sign(t, jwt.SigningMethodRS256, shortKey, p.URL, func(h map[string]any, _ jwt.MapClaims) { h["kid"] = "short" }), "does not publish", auth.Token{}},
		{"refuses a signature that was cut", good[:len(good)-2], "signature", auth.Token{}},
		{"refuses a long one", claim("x", strings.Repeat("x", 9<<10)), "more than 8192 bytes", auth.Token{}},
		{"refuses what is none", "ey.ey.ey", "not a JSON Web Token", auth.Token{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			who, err := s.Verify(tc.token)
			if tc.says != "" {
				if who != nil || err == nil || !strings.Contains(err.Error(), tc.says) {
					t.Fatalf("got %+v, %v, want an error that says %q", who, err, tc.says)
				}
				return
			}
			if err != nil || *who != tc.want {
				t.Fatalf("got %+v, %v, want %+v", who, err, tc.want)
			}
		})
	}
}

func TestVerifyFollowsTheProvider(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	p.away = true
	s := loadIssuers(t, "- {name: acme, issuer: "+p.URL+", audience: usaged, role_claim: realm_access.roles, roles: [{value: seen, role: producer}]}\n", time.Nanosecond)
	old, young := newECKey(t), newECKey(t)
	first := sign(t, jwt.SigningMethodES256, old, p.URL, nil)
	second := sign(t, jwt.SigningMethodES256, young, p.URL, func(h map[string]any, _ jwt.MapClaims) { h["kid"] = "k2" })
	if _, err := s.Verify(first); err == nil {
		t.Fatal("a token is accepted before its issuer's keys are known")
	}
	p.publish("k1", old.Public())
	p.mu.Lock()
	p.away = false
	p.mu.Unlock()
	want := auth.Token{Name: "acme/u-17", Role: auth.RoleProducer, UserID: "u-17"}
	if who := eventually(t, s, first); who != want {
		t.Errorf("once the issuer is back: got %+v, want %+v", who, want)
	}
	p.publish("k2", young.Public())
	if who := eventually(t, s, second); who != want {
		t.Errorf("with a new key: got %+v, want %+v", who, want)
	}
	p.mu.Lock()
	p.away = true
	p.mu.Unlock()
	if who, err := s.Verify(second); err != nil || *who != want {
		t.Errorf("while the issuer is away: got %+v, %v, want %+v", who, err, want)
	}
}

// eventually verifies a token until it is accepted. A hang is found by the time limit of the whole run.
func eventually(t *testing.T, s *auth.Issuers, token string) auth.Token {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range tick.C {
		who, err := s.Verify(token)
		if err == nil {
			return *who
		}
		if t.Context().Err() != nil {
			t.Fatal(err)
		}
	}
	panic("a ticker ended")
}

// What was verified once is not believed for longer than the token and its key are good.
func TestVerifiedTokensExpire(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	old, young := newECKey(t), newECKey(t)
	p.publish("k1", old.Public())
	now := atomic.Pointer[time.Time]{}
	now.Store(&noon)
	path := issuersFile(t, fmt.Sprintf(acme, p.URL))
	s, err := auth.LoadIssuers(path, auth.IssuersConfig{Now: func() time.Time { return *now.Load() }, RefetchEvery: time.Nanosecond})
	if err != nil {
		t.Fatal(err)
	}
	token := sign(t, jwt.SigningMethodES256, old, p.URL, nil)
	eventually(t, s, token)
	later := noon.Add(time.Hour + 31*time.Second)
	now.Store(&later)
	if who, err := s.Verify(token); err == nil {
		t.Errorf("a token that has expired is %+v", who)
	}
	now.Store(&noon)
	long := sign(t, jwt.SigningMethodES256, old, p.URL, func(_ map[string]any, c jwt.MapClaims) { c["exp"] = noon.Add(24 * time.Hour).Unix() })
	eventually(t, s, long)
	p.publish("k1", young.Public()) // which withdraws the old key
	now.Store(&later)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for _, err := s.Verify(long); err == nil; _, err = s.Verify(long) {
		<-tick.C // until the keys have been fetched again
	}
}

func TestUnknownKeysFetchOnceAnInterval(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	key := newECKey(t)
	p.publish("k1", key.Public())
	s := loadIssuers(t, fmt.Sprintf(acme, p.URL), time.Hour)
	eventually(t, s, sign(t, jwt.SigningMethodES256, key, p.URL, nil))
	for i := range 1000 {
		token := sign(t, jwt.SigningMethodES256, key, p.URL, func(h map[string]any, _ jwt.MapClaims) { h["kid"] = fmt.Sprint(i) })
		if _, err := s.Verify(token); err == nil {
			t.Fatal("a token with an unknown key is accepted")
		}
	}
	if n := p.fetches.Load(); n != 1 {
		t.Errorf("the keys were fetched %d times, want 1", n)
	}
}

func TestLoadIssuersNamesFaults(t *testing.T) {
	t.Parallel()
	const good = "- {name: a, issuer: https://a.example.com, audience: usaged, default_role: user}\n"
	for _, tc := range []struct{ name, text, says string }{
		{"an empty file", "", "names no issuer"},
		{"an unknown field", "- {name: a, isuer: x}\n", `issuers.yml:1: unknown field "isuer"`},
		{"no audience", "- {name: a, issuer: https://a.example.com, default_role: user}\n", "audience is missing"},
		{"an issuer without TLS", "- {name: a, issuer: http://a.example.com, audience: u, default_role: user}\n", "https"},
		{"a secret's algorithm", good + "- {name: b, issuer: https://b.example.com, audience: u, default_role: user, algorithms: [HS256]}\n", `issuers.yml:2: entry 2: algorithm "HS256"`},
		{"none as algorithm", "- {name: b, issuer: https://b.example.com, audience: u, default_role: user, algorithms: [none]}\n", `algorithm "none"`},
		{"no role", "- {name: b, issuer: https://b.example.com, audience: u}\n", "no token would have a role"},
		{"an unknown role", "- {name: b, issuer: https://b.example.com, audience: u, default_role: root}\n", "default_role must be one of"},
		{"roles without their claim", "- {name: b, issuer: https://b.example.com, audience: u, roles: [{value: x, role: user}]}\n", "role_claim is missing"},
		{"an issuer that is there twice", good + good, "issuers.yml:2: entry 2: an entry before"},
		{"a file of keys that is not there", "- {name: b, issuer: https://b.example.com, audience: u, default_role: user, jwks: /nowhere.json}\n", "no such file"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			_, err := auth.LoadIssuers(issuersFile(t, tc.text), auth.IssuersConfig{})
			if err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %v, want an error that says %q", err, tc.says)
			}
		})
	}
}

func TestKeysOfAFile(t *testing.T) {
	t.Parallel()
	key := newECKey(t)
	path := filepath.Join(t.TempDir(), "keys.json")
	if err := os.WriteFile(path, keySet(map[string]crypto.PublicKey{"k1": key.Public()}), 0o600); err != nil {
		t.Fatal(err)
	}
	const issuer = "https://login.example.com"
	s := loadIssuers(t, "- {name: acme, issuer: "+issuer+", audience: usaged, jwks: "+path+", default_role: user}\n", time.Hour)
	who, err := s.Verify(sign(t, jwt.SigningMethodES256, key, issuer, nil))
	if want := (auth.Token{Name: "acme/u-17", Role: auth.RoleUser, UserID: "u-17"}); err != nil || *who != want {
		t.Errorf("got %+v, %v, want %+v", who, err, want)
	}
}
