package api_test

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"

	"usaged/api"
	"usaged/api/auth"
)

// A JSON Web Token may do what its role may, and its user is the one who is counted.
func TestJSONWebTokens(t *testing.T) {
	t.Parallel()
	const issuer = "https://login.example.com"
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	jwk, err := jwkset.NewJWKFromKey(public, jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{KID: "k1"}})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := json.Marshal(jwkset.JWKSMarshal{Keys: []jwkset.JWKMarshal{jwk.Marshal()}})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	issuers := fmt.Sprintf("- {name: acme, issuer: %s, audience: usaged, jwks: %q, role_claim: role, roles: [{value: boss, role: admin}], default_role: user}\n",
		issuer, filepath.Join(dir, "keys.json"))
	for name, text := range map[string]string{"keys.json": string(keys), "issuers.yml": issuers} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	loaded, err := auth.LoadIssuers(filepath.Join(dir, "issuers.yml"), auth.IssuersConfig{Now: func() time.Time { return noon }})
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, func(c *api.Config) { c.Issuers = loaded })
	bearer := func(role string, expires time.Time) string {
		token := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.MapClaims{"iss": issuer, "aud": "usaged", "sub": "ann", "role": role, "exp": expires.Unix()})
		token.Header["kid"] = "k1"
		signed, err := token.SignedString(private)
		if err != nil {
			t.Fatal(err)
		}
		return "Bearer " + signed
	}
	later := noon.Add(time.Hour)
	for _, tc := range []struct {
		name, method, path, body, bearer string
		want                             int
	}{
		{"it posts as itself", http.MethodPost, "/api/v1/usage/events", `{"event_type":"x","user_id":"ann"}`, bearer("staff", later), http.StatusAccepted},
		{"it does not post for others", http.MethodPost, "/api/v1/usage/events", `{"event_type":"x","user_id":"bob"}`, bearer("staff", later), http.StatusForbidden},
		{"it does not read", http.MethodGet, "/api/v1/usage/summary", "", bearer("staff", later), http.StatusForbidden},
		{"an admin reads", http.MethodGet, "/api/v1/usage/summary", "", bearer("boss", later), http.StatusOK},
		{"an expired one is refused", http.MethodGet, "/api/v1/usage/summary", "", bearer("boss", noon.Add(-time.Hour)), http.StatusUnauthorized},
		{"a forged one is refused", http.MethodGet, "/api/v1/usage/summary", "", bearer("boss", later) + "x", http.StatusUnauthorized},
	} {
		if got := r.call(tc.method, tc.path, "", tc.body, "Authorization", tc.bearer); got.Code != tc.want {
			t.Errorf("%s: got %d, want %d: %s", tc.name, got.Code, tc.want, got.Body)
		}
	}
}
