package api

import (
	_ "embed"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"usaged/api/auth"
)

func (a *API) getHealthy(w http.ResponseWriter, _ *http.Request, _ *auth.Token) error {
	return writeStatus(w, "healthy")
}

func (a *API) getReady(w http.ResponseWriter, _ *http.Request, _ *auth.Token) error {
	if a.cfg.Ready != nil {
		if err := a.cfg.Ready(); err != nil {
			return refuse(notReady, err.Error())
		}
	}
	if a.bodies.overloaded() {
		return refuse(notReady, "nearly all of the memory for request bodies is taken")
	}
	return writeStatus(w, "ready")
}

func (a *API) postReload(w http.ResponseWriter, _ *http.Request, who *auth.Token) error {
	a.log.Info("a reload was asked for", "token", who.Name)
	if err := a.cfg.Reload(); err != nil {
		return refuse(reloadFailed, "the configuration was not reloaded: "+err.Error())
	}
	return writeStatus(w, "reloaded")
}

func writeStatus(w http.ResponseWriter, status string) error {
	h := w.Header()
	h["Content-Type"] = jsonType
	h.Set("Cache-Control", "no-store")
	_, err := fmt.Fprintf(w, "{\"status\":%q}\n", status)
	return cutBy(err)
}

// cutBy is errCut for an error of writing an answer.
func cutBy(err error) error {
	if err != nil {
		return errCut
	}
	return nil
}

func (a *API) getMetrics(w http.ResponseWriter, r *http.Request, _ *auth.Token) error {
	if a.cfg.Metrics == nil {
		return refuse(notFound, "this usaged exposes no metrics")
	}
	a.cfg.Metrics.ServeHTTP(w, r)
	return nil
}

//go:embed openapi.yaml
var openAPI []byte

var openAPITag = etagOf(string(openAPI))

func (a *API) getOpenAPI(w http.ResponseWriter, r *http.Request, _ *auth.Token) error {
	if notModified(w, r, openAPITag) {
		return nil
	}
	w.Header().Set("Content-Type", "application/yaml")
	_, err := w.Write(openAPI)
	return cutBy(err)
}

// getIndex lists the routes.
func (a *API) getIndex(w http.ResponseWriter, _ *http.Request, _ *auth.Token) error {
	var page strings.Builder
	page.WriteString("usaged counts what people and services do with your platform.\n\n")
	list := a.all
	if a.cfg.Prometheus != nil {
		list = append(slices.Clone(list), route{
			method: http.MethodGet, path: prometheusPath + "/…", roles: scraperRoles, summary: "the HTTP API of Prometheus",
		})
	}
	for _, rt := range list {
		roles := "everybody"
		if rt.roles != 0 {
			roles = rt.roles.String()
		}
		fmt.Fprintf(&page, "%-6s %-36s %-31s %s\n", rt.method, rt.path, rt.summary, roles)
	}
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	_, err := w.Write([]byte(page.String()))
	return cutBy(err)
}
