package api

import (
	"net/http"
	"strings"
)

// roleSet is a set of roles.
type roleSet uint8

func rolesOf(roles ...Role) roleSet {
	var set roleSet
	for _, r := range roles {
		set |= 1 << r
	}
	return set
}

var (
	posterRoles  = rolesOf(RoleUser, RoleProducer, RoleAdmin)
	adminRole    = rolesOf(RoleAdmin)
	scraperRoles = rolesOf(RoleViewer, RoleAdmin)
	writerRoles  = rolesOf(RoleProducer, RoleAdmin)
)

func (s roleSet) has(r Role) bool { return s&(1<<r) != 0 }

func (s roleSet) String() string {
	var names []string
	for r := range numRoles {
		if s.has(r) {
			names = append(names, r.String())
		}
	}
	return strings.Join(names, ", ")
}

const whereTokensAre = "send Authorization: Bearer TOKEN. The tokens that usaged made at its first start are in its data " +
	"directory: user.token, producer.token, viewer.token, admin.token"

// authorize returns the token of the caller, who must have one of the roles.
func (a *API) authorize(w http.ResponseWriter, r *http.Request, roles roleSet) (*Token, error) {
	plain, ok := bearer(r)
	if !ok {
		w.Header().Set("Www-Authenticate", `Bearer realm="usaged"`)
		return nil, refuse(unauthorized, "this needs a token: "+whereTokensAre)
	}
	who := a.cfg.Tokens.lookup(plain)
	if who == nil {
		w.Header().Set("Www-Authenticate", `Bearer realm="usaged", error="invalid_token"`)
		return nil, refuse(unauthorized, "the token is not known: "+whereTokensAre)
	}
	if !roles.has(who.Role) {
		return nil, refusef(forbidden, "a token with the role %s may not do this, it takes one of: %s", who.Role, roles)
	}
	return who, nil
}

// bearer returns the token that the request presents.
func bearer(r *http.Request) (string, bool) {
	scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	token = strings.Trim(token, " ")
	return token, ok && token != "" && strings.EqualFold(scheme, "Bearer")
}
