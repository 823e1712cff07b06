package embedded_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// Every route is asked with every method, with the headers of browsers and with parameters of the wrong kind. None of it may panic,
// and what is asked rightly is answered also where a page of another host asks.
func TestNoRequestPanics(t *testing.T) {
	r := newRig(t, fast)
	r.start()
	paths := []string{
		"query?query=1", "query_range?query=1&start=0&end=1&step=1", "query_exemplars?query=x&start=0&end=1", "format_query?query=1",
		"parse_query?query=1", "query_cost?query=1", "query_range_cost?query=1", "labels", "label/job/values", "label/__name__/values",
		"label/%FF/values", "label//values", "series?match[]=up", "series", "scrape_pools", "scrape_pools/config?pool=usaged", "scrape_pools/config",
		"targets", "targets?state=x&scrapePool=%00", "targets/metadata", "targets/relabel_steps", "targets/relabel_steps?scrapePool=usaged&labels={}",
		"alertmanagers", "metadata", "metadata?limit=-1&limit_per_metric=x", "status/config", "status/runtimeinfo", "status/buildinfo",
		"status/flags", "status/tsdb", "status/tsdb?limit=0", "status/tsdb/blocks", "status/self_metrics", "status/self_metrics?match[]=x{",
		"features", "status/walreplay", "notifications", "notifications/live", "read", "write", "otlp/v1/metrics", "search/metric_names",
		"search/label_names", "search/label_values", "alerts", "rules", "rules?type=x", "rules?group_limit=0", "rules?group_next_token=x",
		"rules?match[]={", "admin/tsdb/delete_series", "admin/tsdb/delete_series?match[]=up", "admin/tsdb/clean_tombstones", "admin/tsdb/snapshot",
		"openapi.yaml", "", "nothing", "query%00", "%2e%2e/query",
	}
	headers := []http.Header{
		{},
		{"Origin": {"https://dash.example"}},
		{"Origin": {""}, "Accept": {"*/*;q=x,,;"}},
		{"Origin": {"\xff", "null"}, "Access-Control-Request-Method": {"POST"}, "Accept": {"application/openmetrics-text"}},
		{"Content-Type": {"application/x-www-form-urlencoded; charset=\xff"}, "Content-Encoding": {"snappy"}, "X-Prometheus-Use-Start-Timestamps": {"x"}},
		{"Content-Type": {"multipart/form-data"}, "X-Prometheus-Remote-Write-Version": {"9"}, "Accept-Encoding": {"gzip;q=-1, snappy"}, "Range": {"bytes=9-1"}},
	}
	for _, path := range paths {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "QUERY"} {
			for _, header := range headers {
				req := httptest.NewRequest("GET", "/prometheus/api/v1/"+path, strings.NewReader("query=%zz&\xff"))
				req.Method, req.Header = method, header.Clone()
				r.prom.ServeHTTP(httptest.NewRecorder(), req)
			}
		}
	}
	for _, path := range []string{"query?query=1", "labels", "rules", "status/buildinfo", "targets"} {
		plain := r.ask(http.MethodGet, path, "")
		from := r.ask(http.MethodGet, path, "https://dash.example")
		if plain.Code != http.StatusOK || from.Code != http.StatusOK || from.Header().Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s: status %d, with an Origin %d and %v; want 200, and no other host allowed", path, plain.Code, from.Code, from.Header())
		}
	}
	if rec := r.ask(http.MethodOptions, "query", "https://dash.example"); rec.Code != http.StatusNoContent {
		t.Errorf("a preflight is answered with %d, want 204", rec.Code)
	}
}

func (r *rig) ask(method, path, origin string) *httptest.ResponseRecorder {
	rec, req := httptest.NewRecorder(), httptest.NewRequest(method, "/prometheus/api/v1/"+path, http.NoBody)
	if origin != "" {
		req.Header.Set("Origin", origin)
	}
	r.prom.ServeHTTP(rec, req)
	return rec
}
