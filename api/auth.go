package api

import (
	"net/http"
	"strings"

	"usaged/api/auth"
)

// Who may do what.
var (
	posterRoles  = auth.RolesOf(auth.RoleUser, auth.RoleProducer, auth.RoleAdmin)
	adminRole    = auth.RolesOf(auth.RoleAdmin)
	scraperRoles = auth.RolesOf(auth.RoleViewer, auth.RoleAdmin)
	writerRoles  = auth.RolesOf(auth.RoleProducer, auth.RoleAdmin)
)

const whereTokensAre = "send Authorization: Bearer TOKEN. The tokens that usaged made at its first start are in its data " +
	"directory: user.token, producer.token, viewer.token, admin.token"

// authorize returns the token of the caller, who must have one of the roles.
func (a *API) authorize(w http.ResponseWriter, r *http.Request, roles auth.Roles) (*auth.Token, error) {
	plain, ok := bearer(r)
	if !ok {
		w.Header().Set("Www-Authenticate", `Bearer realm="usaged"`)
		return nil, refuse(unauthorized, "this needs a token: "+whereTokensAre)
	}
	who := a.cfg.Tokens.Lookup(plain)
	if who == nil {
		w.Header().Set("Www-Authenticate", `Bearer realm="usaged", error="invalid_token"`)
		return nil, refuse(unauthorized, "the token is not known: "+whereTokensAre)
	}
	if !roles.Has(who.Role) {
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
