package api_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"usaged/api"
	"usaged/api/auth"
)

// rolesOfRoutes says who may call what. A route without a row fails TestRolesOfRoutes. Empty: everybody.
var rolesOfRoutes = map[string]string{
	"POST /api/v1/usage/events":                 "user producer admin",
	"GET /api/v1/usage/events":                  "auditor admin",
	"GET /api/v1/usage/summary":                 "reader admin",
	"GET /api/v1/usage/users":                   "reader admin",
	"GET /api/v1/usage/queries":                 "reader admin",
	"GET /api/v1/usage/dashboards":              "reader admin",
	"GET /api/v1/usage/llm-tokens":              "reader admin",
	"GET /api/v1/usage/daily":                   "reader admin",
	"GET /api/v1/usage/{meter}":                 "reader admin",
	"GET /api/v1/usage/ledger":                  "reader auditor operator admin",
	"GET /api/v1/usage/meters":                  "reader operator admin",
	"POST /api/v1/usage/meters/{meter}/rebuild": "operator admin",
	"GET /api/v1/usage/health":                  "reader operator admin",
	"POST /api/v1/usage/health/accept":          "operator admin",
	"GET /api/v1/usage/quiet":                   "reader operator admin",
	"POST /api/v1/usage/quiet":                  "operator admin",
	"DELETE /api/v1/usage/quiet/{id}":           "operator admin",
	"GET /api/v1/usage/backfill":                "reader operator admin",
	"POST /api/v1/usage/backfill":               "operator admin",
	"GET /api/v1/usage/clock":                   "reader operator admin",
	"POST /api/v1/usage/clock/accept":           "operator admin",
	"GET /api/v1/usage/labels":                  "operator admin",
	"POST /api/v1/usage/labels/free":            "operator admin",
	"GET /api/v1/usage/retention":               "reader operator admin",
	"POST /api/v1/usage/retention/apply":        "operator admin",
	"POST /-/reload":                            "operator admin",
	"GET /prometheus/api/v1/…":                  "viewer admin",
	"POST /prometheus/api/v1/write":             "producer admin",
	"GET /metrics":                              "",
	"GET /-/healthy":                            "",
	"GET /-/ready":                              "",
	"GET /api/v1/openapi.yaml":                  "",
	"GET /":                                     "",
}

// TestRolesOfRoutes calls every route that the index page lists with every role, without a token, and with tokens that are
// wrong.
func TestRolesOfRoutes(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *api.Config) {
		c.Prometheus = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	})
	fill := strings.NewReplacer("{meter}", "minutes", "{id}", "1", "…", "query")
	for _, route := range append(routesOfIndex(t, r), "POST /prometheus/api/v1/write") {
		allowed, known := rolesOfRoutes[route]
		if !known {
			t.Errorf("%s has no row: decide who may call it", route)
			continue
		}
		method, path, _ := strings.Cut(route, " ")
		for _, role := range append(auth.RoleNames(), "") {
			want := allowed == "" || role != "" && slices.Contains(strings.Fields(allowed), role)
			code := r.call(method, fill.Replace(path), role, "[]").Code
			if got := code != http.StatusUnauthorized && code != http.StatusForbidden; got != want {
				t.Errorf("%s as %q: status %d, allowed should be %v", route, role, code, want)
			}
			if role == "" && !want && code != http.StatusUnauthorized {
				t.Errorf("%s without a token: status %d, want 401", route, code)
			}
		}
		if allowed == "" {
			continue
		}
		for _, wrong := range []string{
			"Bearer usaged_admin_wrong", "Bearer " + tokenOf("admin") + "x", "Bearer " + strings.ToUpper(tokenOf("admin")), "Bearer", "Bearer ",
			"Basic " + tokenOf("admin"), tokenOf("admin"), "Bearer " + tokenOf("admin") + ", Bearer " + tokenOf("admin"),
		} {
			if code := r.call(method, fill.Replace(path), "", "[]", "Authorization", wrong).Code; code != http.StatusUnauthorized {
				t.Errorf("%s with %q: status %d, want 401", route, wrong, code)
			}
		}
	}
}

// routesOfIndex returns the methods and paths that GET / lists.
func routesOfIndex(t *testing.T, r *rig) (routes []string) {
	t.Helper()
	for line := range strings.Lines(r.call(http.MethodGet, "/", "", "").Body.String()) {
		fields := strings.Fields(line)
		if len(fields) > 1 && strings.HasPrefix(fields[1], "/") {
			routes = append(routes, fields[0]+" "+fields[1])
		}
	}
	if len(routes)+1 < len(rolesOfRoutes) { // remote write is not listed
		t.Errorf("the index lists %d routes, and there are rows for %d", len(routes), len(rolesOfRoutes))
	}
	return routes
}
