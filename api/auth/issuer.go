package auth

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"usaged/aggregator/event"
	"usaged/aggregator/yamlfile"
)

// Issuers verifies JSON Web Tokens, as OpenID Connect providers issue them. It is the content of an issuers file:
//
//   - name: acme                                 # begins the names of its tokens, "acme/alice"
//     issuer: https://login.example.com/acme     # the claim iss, to the letter
//     audience: usaged                           # one of the values of the claim aud
//     jwks: https://login.example.com/acme/keys  # URL or file of the keys; by default the issuer's discovery document names it
//     algorithms: [ES256]                        # by default every RS, PS and ES algorithm, and EdDSA
//     user_claim: email                          # by default sub
//     role_claim: groups                         # text or a list of texts; "a.b" is b inside a
//     roles:                                     # the first line that fits decides
//   - {value: platform, role: admin}
//     default_role: user                         # where no line fits; by default the token is refused
//
// Only signatures by public keys are accepted, and only tokens that name their key, expire, and are for the audience. It is
// safe for concurrent use.
type Issuers struct {
	path    string
	cfg     IssuersConfig
	byIssue atomic.Pointer[map[string]*issuer]
	known   verified
}

// IssuersConfig is what an Issuers works with. The zero value of each field is a default.
type IssuersConfig struct {
	// Now is the clock by which tokens expire, time.Now where nil.
	Now func() time.Time
	// Client fetches keys. Its redirects are not followed. A client with a timeout of 10 s where nil.
	Client *http.Client
	// RefetchEvery is the shortest time between two fetches of an issuer's keys, 30 s where 0.
	RefetchEvery time.Duration
	// Log gets what operators should know. Discarded where nil.
	Log *slog.Logger
	// Fetched is told the outcome of each fetch of keys. May be nil.
	Fetched func(issuerName string, err error)
}

// issuerEntry is one entry of the file.
type issuerEntry struct {
	Name        string     `yaml:"name"`
	Issuer      string     `yaml:"issuer"`
	Audience    string     `yaml:"audience"`
	JWKS        string     `yaml:"jwks"`
	Algorithms  []string   `yaml:"algorithms"`
	UserClaim   string     `yaml:"user_claim"`
	RoleClaim   string     `yaml:"role_claim"`
	Roles       []roleRule `yaml:"roles"`
	DefaultRole string     `yaml:"default_role"`
}

type roleRule struct {
	Value string `yaml:"value"`
	Role  string `yaml:"role"`
}

// issuer verifies the tokens of one issuer.
type issuer struct {
	issuerEntry
	parser *jwt.Parser
	keys   *keySet
}

// publicKeyAlgorithms are those whose verification needs no secret. "none" and the HS family, with which a public key could be
// taken for a shared secret, are never accepted.
var publicKeyAlgorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

// LoadIssuers reads an issuers file. An error names the file and the line of every fault. Keys are fetched in the background:
// an issuer may be away.
func LoadIssuers(path string, cfg IssuersConfig) (*Issuers, error) {
	cfg.setDefaults()
	s := &Issuers{path: path, cfg: cfg}
	s.byIssue.Store(&map[string]*issuer{})
	return s, s.Reload()
}

// CheckIssuers says what is wrong with an issuers file, without fetching anything.
func CheckIssuers(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read issuers: %w", err)
	}
	_, err = parseIssuers(path, data)
	return err
}

func (cfg *IssuersConfig) setDefaults() {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Client == nil {
		cfg.Client = &http.Client{Timeout: 10 * time.Second}
	}
	client := *cfg.Client
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	cfg.Client = &client
	if cfg.RefetchEvery == 0 {
		cfg.RefetchEvery = 30 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Fetched == nil {
		cfg.Fetched = func(string, error) {}
	}
}

// Reload reads the file again. On an error the issuers that were in force stay.
func (s *Issuers) Reload() error {
	data, err := os.ReadFile(s.path)
	if err != nil {
		return fmt.Errorf("read issuers: %w", err)
	}
	entries, err := parseIssuers(s.path, data)
	if err != nil {
		return err
	}
	before, after := *s.byIssue.Load(), map[string]*issuer{}
	for _, e := range entries {
		i := &issuer{issuerEntry: e, parser: e.newParser(s.cfg.Now)}
		if old := before[e.Issuer]; old != nil && old.JWKS == e.JWKS {
			i.keys = old.keys // no token is refused while they would be fetched again
		} else if i.keys, err = openKeys(e, s.cfg); err != nil {
			return fmt.Errorf("%s: issuer %q: %w", s.path, e.Name, err)
		}
		after[e.Issuer] = i
	}
	s.byIssue.Store(&after)
	return nil
}

// parseIssuers reads a file. Its error has a line for each fault.
func parseIssuers(path string, data []byte) ([]issuerEntry, error) {
	file := yamlfile.Parse(path, data)
	var entries []issuerEntry
	file.Decode(&entries)
	if file.Root == nil && file.Err() == nil {
		return nil, fmt.Errorf("%s: names no issuer: leave --auth.issuers-file out where there is none", path)
	}
	names, urls := map[string]bool{}, map[string]bool{}
	for i := range entries {
		e := &entries[i]
		line := file.Root.Content[i].Line
		for _, fault := range e.faults() {
			file.Fault(line, "entry %d: %s", i+1, fault)
		}
		if names[e.Name] || urls[e.Issuer] {
			file.Fault(line, "entry %d: an entry before has this name or issuer already", i+1)
		}
		names[e.Name], urls[e.Issuer] = true, true
		e.setDefaults()
	}
	return entries, file.Err()
}

func (e *issuerEntry) setDefaults() {
	if e.UserClaim == "" {
		e.UserClaim = "sub"
	}
	if len(e.Algorithms) == 0 {
		e.Algorithms = publicKeyAlgorithms
	}
}

// maxIssuerNameBytes leaves room for the subject in the name of a token.
const maxIssuerNameBytes = 32

// faults says what is wrong with an entry.
func (e *issuerEntry) faults() (faults []string) {
	check := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, fmt.Sprintf(format, args...))
		}
	}
	check(printable(e.Name) && len(e.Name) <= maxIssuerNameBytes && !strings.Contains(e.Name, "/"),
		"name must be 1 to %d bytes of text without a slash", maxIssuerNameBytes)
	check(secureURL(e.Issuer), "issuer must be an https URL, as in the claim iss (http for a loopback address alone)")
	check(e.Audience != "", "audience is missing: without one, a token for any other service would do")
	check(e.JWKS == "" || !strings.Contains(e.JWKS, "://") || secureURL(e.JWKS), "jwks must be an https URL or a file")
	for _, alg := range e.Algorithms {
		check(slices.Contains(publicKeyAlgorithms, alg), "algorithm %q is not one of %s", alg, strings.Join(publicKeyAlgorithms, ", "))
	}
	check(len(e.Roles) == 0 || e.RoleClaim != "", "role_claim is missing: it names the claim that roles speaks of")
	check(len(e.Roles) > 0 || e.DefaultRole != "", "roles or default_role is missing: no token would have a role")
	for _, rule := range e.Roles {
		_, err := ParseRole(rule.Role)
		check(err == nil && rule.Value != "", "each of roles needs a value and a role: one of %s", strings.Join(roleNames[:], ", "))
	}
	if e.DefaultRole != "" {
		_, err := ParseRole(e.DefaultRole)
		check(err == nil, "default_role must be one of %s", strings.Join(roleNames[:], ", "))
	}
	return faults
}

// secureURL says whether nobody on the way can change what is fetched from a URL.
func secureURL(text string) bool {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil {
		return false
	}
	return u.Scheme == "https" || u.Scheme == "http" && slices.Contains([]string{"127.0.0.1", "::1", "localhost"}, u.Hostname())
}

// leeway is how far the clocks of an issuer and ours may differ.
const leeway = 30 * time.Second

func (e *issuerEntry) newParser(now func() time.Time) *jwt.Parser {
	return jwt.NewParser(
		jwt.WithValidMethods(e.Algorithms),
		jwt.WithIssuer(e.Issuer),
		jwt.WithAudience(e.Audience),
		jwt.WithExpirationRequired(),
		jwt.WithIssuedAt(),
		jwt.WithLeeway(leeway),
		jwt.WithTimeFunc(now),
	)
}

// Why a token is refused. The text is for the client.
var (
	// ErrKeysPending says that a token names a key that is being fetched: it may be valid in a second.
	ErrKeysPending = errors.New("the keys of the token's issuer are being fetched: send it again in a second")

	errTooLong       = fmt.Errorf("the token has more than %d bytes", maxJWTBytes)
	errNotJWT        = errors.New("the token is not a JSON Web Token")
	errForeignIssuer = errors.New("the token is of an issuer that is not in the issuers file")
	errNoKeyID       = errors.New("the token's header names no key: kid is missing or not text")
	errOwnKey        = errors.New("the token's header brings a key or an extension of its own, which is never followed (jku, jwk, x5u, x5c, crit)")
	errUnknownKey    = errors.New("the token names a key that its issuer does not publish")
	errNoUser        = errors.New("the token names no user that can be counted: see user_claim in the issuers file")
	errNoRole        = errors.New("the token has no role here: see roles in the issuers file")
	errUnverified    = errors.New("the token's email address is not verified")
)

// maxJWTBytes bounds what is parsed before anything is known of the sender.
const maxJWTBytes = 8 << 10

// LooksLikeJWT says whether a bearer token has the form of a JSON Web Token. None of the tokens that usaged makes has it.
func LooksLikeJWT(presented string) bool {
	return strings.HasPrefix(presented, "ey") && strings.Count(presented, ".") == 2
}

// Verify returns who presents a JSON Web Token. It waits for nobody. An error says in a sentence why the token is refused, and never
// repeats what is in it; it is ErrKeysPending (errors.Is) where the same token may be accepted soon.
func (s *Issuers) Verify(presented string) (*Token, error) {
	if len(presented) > maxJWTBytes {
		return nil, errTooLong
	}
	unverified, _, err := jwt.NewParser().ParseUnverified(presented, jwt.MapClaims{})
	if err != nil {
		return nil, errNotJWT
	}
	named, err := unverified.Claims.GetIssuer()
	if err != nil {
		return nil, errForeignIssuer
	}
	i := (*s.byIssue.Load())[named]
	if i == nil {
		return nil, errForeignIssuer
	}
	sum := digestOf(presented)
	if who := s.known.lookup(sum, i, s.cfg.Now()); who != nil {
		i.keys.refreshIfOld()
		return who, nil
	}
	found := verification{by: i, keys: i.keys.current.Load()}
	claims := jwt.MapClaims{}
	if _, err := i.parser.ParseWithClaims(presented, claims, i.key); err != nil {
		return nil, reason(err)
	}
	if found.token, err = i.token(claims); err != nil {
		return nil, err
	}
	expires, err := claims.GetExpirationTime()
	if err != nil {
		return nil, errNotJWT
	}
	found.expires = expires.Add(leeway)
	s.known.add(sum, found)
	return found.token, nil
}

// key returns the public key that a token names.
func (i *issuer) key(token *jwt.Token) (any, error) {
	for _, header := range []string{"jku", "jwk", "x5u", "x5c", "crit"} {
		if _, there := token.Header[header]; there {
			return nil, errOwnKey
		}
	}
	kid, ok := token.Header["kid"].(string)
	if !ok || kid == "" {
		return nil, errNoKeyID
	}
	return i.keys.find(kid, token.Method.Alg())
}

// reason returns why the parser refuses a token, in our words.
func reason(err error) error {
	for _, known := range []error{ErrKeysPending, errOwnKey, errNoKeyID, errUnknownKey} {
		if errors.Is(err, known) {
			return known
		}
	}
	reasons := []struct{ is, says error }{
		{jwt.ErrTokenExpired, errors.New("the token has expired")},
		{jwt.ErrTokenNotValidYet, errors.New("the token is not valid yet (nbf)")},
		{jwt.ErrTokenUsedBeforeIssued, errors.New("the token was issued in the future (iat)")},
		{jwt.ErrTokenInvalidAudience, errors.New("the token is for another audience (aud)")},
		{jwt.ErrTokenRequiredClaimMissing, errors.New("the token lacks one of the claims iss, aud and exp")},
		{jwt.ErrTokenSignatureInvalid, errors.New("the token's signature does not fit, or its algorithm is not accepted")},
	}
	for _, r := range reasons {
		if errors.Is(err, r.is) {
			return r.says
		}
	}
	return errors.New("the token is not valid")
}

// token returns who is named by claims that were verified.
func (i *issuer) token(claims jwt.MapClaims) (*Token, error) {
	user, ok := claims[i.UserClaim].(string)
	if !ok || !printable(user) || len(user) > event.MaxUserIDBytes {
		return nil, errNoUser
	}
	if verified, there := claims["email_verified"]; i.UserClaim == "email" && there && verified != true {
		return nil, errUnverified
	}
	role, err := i.role(claims)
	if err != nil {
		return nil, err
	}
	return &Token{Name: i.tokenName(user), Role: role, UserID: user}, nil
}

// tokenName returns the name under which a user's token is journalled: issuer and user, or where that is too long a part of
// the user with a digest of the whole.
func (i *issuer) tokenName(user string) string {
	name := i.Name + "/" + user
	if len(name) <= maxTokenNameBytes {
		return name
	}
	sum := sha256.Sum256([]byte(user))
	digest := "~" + hex.EncodeToString(sum[:8])
	return strings.ToValidUTF8(name[:maxTokenNameBytes-len(digest)], "") + digest
}

// role returns the role that the first fitting rule gives.
func (i *issuer) role(claims jwt.MapClaims) (Role, error) {
	values := claimValues(claims, i.RoleClaim)
	for _, rule := range i.Roles {
		if slices.Contains(values, rule.Value) {
			return ParseRole(rule.Role)
		}
	}
	if i.DefaultRole == "" {
		return 0, errNoRole
	}
	return ParseRole(i.DefaultRole)
}

// claimValues returns the texts of a claim, whose name may lead into objects.
func claimValues(claims map[string]any, name string) []string {
	value, there := claims[name]
	if first, rest, nested := strings.Cut(name, "."); !there && nested {
		inner, _ := claims[first].(map[string]any)
		return claimValues(inner, rest)
	}
	switch v := value.(type) {
	case string:
		return []string{v}
	case []any:
		var texts []string
		for _, one := range v {
			if text, ok := one.(string); ok {
				texts = append(texts, text)
			}
		}
		return texts
	}
	return nil
}
