package api

import (
	"net/http"
	"path"
	"slices"
	"strings"

	"github.com/gorilla/mux"
	"github.com/klauspost/compress/gzhttp"

	"usaged/api/auth"
)

// handlerFunc answers a request, or returns an error that has not been written yet: a *problem, or anything else for
// an internal error. who is nil where the route is open to everybody.
type handlerFunc func(w http.ResponseWriter, r *http.Request, who *auth.Token) error

// route is one method of one path.
type route struct {
	method, path string
	name         string     // the handler label of metrics
	roles        auth.Roles // none: open to everybody
	compress     bool       // the answer may be long
	summary      string     // for the index page
	serve        handlerFunc
}

// routes is everything that the API answers. The busiest comes first, because the router tries them in this order.
func (a *API) routes() []route {
	scrapers := auth.Roles(0)
	if a.cfg.MetricsAuth {
		scrapers = scraperRoles
	}
	get, post, del := http.MethodGet, http.MethodPost, http.MethodDelete
	return []route{
		{post, "/api/v1/usage/events", "events", posterRoles, false, "accept usage events", a.postEvents},
		{get, "/api/v1/usage/events", "tail", auditorRoles, true, "accepted events, oldest first", a.getEvents},
		{get, "/api/v1/usage/summary", "summary", readerRoles, true, "events by type and user", a.getSummary},
		{get, "/api/v1/usage/users", "users", readerRoles, true, "events by user", a.getMeter("users")},
		{get, "/api/v1/usage/queries", "queries", readerRoles, true, "queries by question", a.getMeter("queries")},
		{get, "/api/v1/usage/dashboards", "dashboards", readerRoles, true, "publications by dashboard", a.getMeter("dashboards")},
		{get, "/api/v1/usage/llm-tokens", "llm-tokens", readerRoles, true, "LLM tokens by user", a.getMeter("llm-tokens")},
		{get, "/api/v1/usage/daily", "daily", readerRoles, true, "events or meters by day", a.getDaily},
		{get, "/api/v1/usage/ledger", "ledger", ledgerRoles, true, "what became of every event", a.getLedger},
		{get, "/api/v1/usage/meters", "meters", statusRoles, true, "what the meters count", a.getMeters},
		{post, "/api/v1/usage/meters/{meter}/rebuild", "rebuild", operatorRoles, false, "count a meter's past", a.postRebuild},
		{get, "/api/v1/usage/health", "health", statusRoles, true, "score, mode, and why", a.getHealth},
		{post, "/api/v1/usage/health/accept", "health-accept", operatorRoles, false, "accept a new normal of a type", a.postHealthAccept},
		{get, "/api/v1/usage/quiet", "quiet", statusRoles, true, "planned quiet times", a.getQuiet},
		{post, "/api/v1/usage/quiet", "quiet-add", operatorRoles, false, "plan a quiet time", a.postQuiet},
		{del, "/api/v1/usage/quiet/{id}", "quiet-end", operatorRoles, false, "end a quiet time", a.deleteQuiet},
		{get, "/api/v1/usage/backfill", "backfill", statusRoles, true, "how far a backfill is", a.getBackfill},
		{post, "/api/v1/usage/backfill", "backfill-ask", operatorRoles, false, "write the past into Prometheus", a.postBackfill},
		{get, "/api/v1/usage/clock", "clock", statusRoles, true, "the time, and the wall clock", a.getClock},
		{post, "/api/v1/usage/clock/accept", "clock-accept", operatorRoles, false, "accept the wall clock", a.postAccept},
		{get, "/api/v1/usage/labels", "labels", operatorRoles, true, "values of labels, and the room left", a.getLabels},
		{post, "/api/v1/usage/labels/free", "labels-free", operatorRoles, false, "give the room of a value to others", a.postFreeLabel},
		{get, "/api/v1/usage/retention", "retention", statusRoles, true, "how many days are kept", a.getRetention},
		{post, "/api/v1/usage/retention/apply", "retention-apply", operatorRoles, false, "delete what is beyond them", a.postRetention},
		{get, "/api/v1/usage/{meter}", "meter", readerRoles, true, "any other meter", a.getMeter("")},
		{get, "/api/v1/openapi.yaml", "openapi", 0, true, "description of this API", a.getOpenAPI},
		{get, "/metrics", "metrics", scrapers, false, "metrics for Prometheus", a.getMetrics},
		{get, "/-/healthy", "healthy", 0, false, "whether the process lives", a.getHealthy},
		{get, "/-/ready", "ready", 0, false, "whether events can be accepted", a.getReady},
		{post, "/-/reload", "reload", operatorRoles, false, "read the configuration again", a.postReload},
		{get, "/", "index", 0, false, "this page", a.getIndex},
	}
}

// router routes by path alone and leaves the method to a pathHandler, because mux's own 405 names no methods.
func (a *API) router() (http.Handler, error) {
	compress, err := gzhttp.NewWrapper()
	if err != nil {
		return nil, err
	}
	// Cleaning a path would answer //api/… with a redirect, and a POST must never be redirected.
	router := mux.NewRouter().SkipClean(true)
	paths := map[string]*pathHandler{}
	for _, rt := range a.all {
		p := paths[rt.path]
		if p == nil {
			p = &pathHandler{methods: map[string]http.Handler{}, refused: a.refuser(methodNotAllowed)}
			paths[rt.path] = p
			router.Handle(rt.path, p)
			if rt.path != "/" {
				router.Handle(rt.path+"/", p)
			}
		}
		var h http.Handler = a.endpoint(rt)
		if rt.compress {
			h = compress(h)
		}
		p.add(rt.method, h)
	}
	a.mountPrometheus(router)
	router.NotFoundHandler = a.refuser(notFound)
	return router, nil
}

const prometheusPath = "/prometheus/api/v1"

// mountPrometheus hands everything under /prometheus/ to the embedded Prometheus, which has its own routes and answers.
func (a *API) mountPrometheus(router *mux.Router) {
	write := a.endpoint(route{name: "remote-write", roles: writerRoles, serve: a.servePrometheus})
	router.Handle(prometheusPath+"/write", write)
	router.Handle(prometheusPath+"/write/", write) // the route below would let others write
	router.PathPrefix("/prometheus/").Handler(a.endpoint(route{name: "prometheus", roles: scraperRoles, serve: a.servePrometheus}))
}

// servePrometheus passes a request on in the one form of its path that the routes of Prometheus know. They would answer any other
// with a redirect.
func (a *API) servePrometheus(w http.ResponseWriter, r *http.Request, _ *auth.Token) error {
	if a.cfg.Prometheus == nil {
		return refuse(prometheusOff, "the embedded Prometheus is off, since --prometheus.enabled=false: start usaged without that, or ask a "+
			"Prometheus that scrapes it")
	}
	p, slash := strings.CutSuffix(r.URL.Path, "/")
	if p == prometheusPath || path.Clean(p) != p {
		return refuse(notFound, nothingHere)
	}
	if slash && p != "/prometheus" {
		address, inner := *r.URL, *r
		address.Path, address.RawPath = p, strings.TrimSuffix(address.RawPath, "/")
		inner.URL = &address
		r = &inner
	}
	a.cfg.Prometheus.ServeHTTP(w, r)
	return nil
}

// pathHandler chooses among the methods of one path.
type pathHandler struct {
	methods map[string]http.Handler
	allow   []string
	refused http.Handler
}

func (p *pathHandler) add(method string, h http.Handler) {
	p.methods[method] = h
	p.allow = append(p.allow, method)
	if method == http.MethodGet {
		p.methods[http.MethodHead] = h
		p.allow = append(p.allow, http.MethodHead)
	}
	slices.Sort(p.allow)
}

func (p *pathHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h := p.methods[r.Method]; h != nil {
		h.ServeHTTP(w, r)
		return
	}
	w.Header().Set("Allow", strings.Join(p.allow, ", "))
	p.refused.ServeHTTP(w, r)
}

const nothingHere = "nothing is at this path: GET / lists what there is"

// refuser is a handler that answers everything with one problem.
func (a *API) refuser(c class) http.Handler {
	return a.endpoint(route{
		name: "other",
		serve: func(w http.ResponseWriter, r *http.Request, _ *auth.Token) error {
			if c == methodNotAllowed {
				return refuse(c, "this path takes "+w.Header().Get("Allow"))
			}
			return refuse(c, nothingHere)
		},
	})
}
