package api

import (
	"errors"
	"net/http"
	"strings"

	"usaged/api/auth"
)

// Who may do what. TestRolesOfRoutes has a row for every route.
var (
	posterRoles   = auth.RolesOf(auth.RoleUser, auth.RoleProducer, auth.RoleAdmin)
	scraperRoles  = auth.RolesOf(auth.RoleViewer, auth.RoleAdmin)
	writerRoles   = auth.RolesOf(auth.RoleProducer, auth.RoleAdmin)
	readerRoles   = auth.RolesOf(auth.RoleReader, auth.RoleAdmin)
	auditorRoles  = auth.RolesOf(auth.RoleAuditor, auth.RoleAdmin)
	operatorRoles = auth.RolesOf(auth.RoleOperator, auth.RoleAdmin)
	// statusRoles may see how the daemon is, which names no user.
	statusRoles = auth.RolesOf(auth.RoleReader, auth.RoleOperator, auth.RoleAdmin)
	ledgerRoles = auth.RolesOf(auth.RoleReader, auth.RoleAuditor, auth.RoleOperator, auth.RoleAdmin)
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
	who, err := a.identify(plain)
	if errors.Is(err, auth.ErrKeysPending) {
		return nil, refuse(keysPending, err.Error())
	}
	if err != nil {
		w.Header().Set("Www-Authenticate", `Bearer realm="usaged", error="invalid_token"`)
		return nil, refuse(unauthorized, err.Error())
	}
	if !roles.Has(who.Role) {
		p := refusef(forbidden, "a token with the role %s may not do this, it takes one of: %s", who.Role, roles)
		p.token = who.Name
		return nil, p
	}
	return who, nil
}

// identify returns who presents a token. The error is a sentence for the client.
func (a *API) identify(presented string) (*auth.Token, error) {
	if a.cfg.Issuers != nil && auth.LooksLikeJWT(presented) {
		return a.cfg.Issuers.Verify(presented)
	}
	if who := a.cfg.Tokens.Lookup(presented); who != nil {
		return who, nil
	}
	return nil, errors.New("the token is not known: " + whereTokensAre)
}

// bearer returns the token that the request presents.
func bearer(r *http.Request) (string, bool) {
	scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	token = strings.Trim(token, " ")
	return token, ok && token != "" && strings.EqualFold(scheme, "Bearer")
}
