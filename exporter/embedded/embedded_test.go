package embedded_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"go.uber.org/goleak"

	"usaged/exporter/embedded"
	"usaged/rules"
	"usaged/tools/waittest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/prometheus/prometheus/tsdb/wlog.(*WL).run"), // of a log whose TSDB did not open
		goleak.IgnoreAnyFunction("go.opencensus.io/stats/view.(*worker).start"))          // begun by a client library of Prometheus' at its import
}

// fast scrapes often, so that tests are quick.
const fast = "global: {scrape_interval: 50ms, scrape_timeout: 50ms, evaluation_interval: 50ms}\n"

// rig is a Prometheus on a registry with a counter.
type rig struct {
	t        *testing.T
	cfg      embedded.Config
	prom     *embedded.Prometheus
	registry *prometheus.Registry
	events   prometheus.Counter
}

// newRig prepares one. change may change its configuration before it starts.
func newRig(t *testing.T, file string) *rig {
	t.Helper()
	dir := t.TempDir()
	r := &rig{t: t}
	r.cfg = embedded.Config{
		Dir: filepath.Join(dir, "tsdb"), RemoteWriteDir: filepath.Join(dir, "remote-write"), Retention: 31 * 24 * time.Hour,
		ConfigFile: filepath.Join(dir, "prometheus.yml"), Rules: fstest.MapFS{}, Instance: "host:8080", URL: "http://host:8080/prometheus",
		Now: time.Now, Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo})),
	}
	r.write(r.cfg.ConfigFile, file)
	return r
}

func (r *rig) write(path, text string) {
	r.t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// start starts a Prometheus with a new registry, as a process does, and waits until it is ready.
func (r *rig) start() {
	r.t.Helper()
	if err := r.open().Wait(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
}

// open starts a Prometheus with a new registry, and does not wait.
func (r *rig) open() *embedded.Prometheus {
	r.t.Helper()
	r.registry = prometheus.NewRegistry()
	r.events = prometheus.NewCounter(prometheus.CounterOpts{Name: "usage_events_total", Help: "Events.", ConstLabels: prometheus.Labels{"event_type": "a"}})
	r.registry.MustRegister(r.events)
	r.cfg.Metrics, r.cfg.Registerer = promhttp.HandlerFor(r.registry, promhttp.HandlerOpts{EnableOpenMetrics: true}), r.registry
	var err error
	if r.prom, err = embedded.Open(r.cfg); err != nil {
		r.t.Fatal(err)
	}
	prom := r.prom
	r.t.Cleanup(func() { r.stop(prom) })
	return prom
}

func (r *rig) stop(prom *embedded.Prometheus) {
	r.t.Helper()
	ctx, cancel := waittest.Context(context.Background())
	defer cancel()
	if err := prom.Close(ctx); err != nil {
		r.t.Error(err)
	}
}

// get asks the HTTP API and decodes its data.
func (r *rig) get(path string, data any) int {
	r.t.Helper()
	rec := httptest.NewRecorder()
	r.prom.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/prometheus/api/v1/"+path, http.NoBody))
	if data != nil {
		answer := struct{ Data any }{data}
		if err := json.Unmarshal(rec.Body.Bytes(), &answer); err != nil {
			r.t.Fatalf("%s: %v: %s", path, err, rec.Body)
		}
	}
	return rec.Code
}

// query returns the values of an instant query, by the labels of its series.
func (r *rig) query(expr string) map[string]string {
	r.t.Helper()
	var data struct {
		Result []struct {
			Metric map[string]string
			Value  [2]any
		}
	}
	if code := r.get("query?query="+url.QueryEscape(expr), &data); code != http.StatusOK {
		r.t.Fatalf("%s: status %d", expr, code)
	}
	values := map[string]string{}
	for _, s := range data.Result {
		values[fmt.Sprint(s.Metric)] = fmt.Sprint(s.Value[1])
	}
	return values
}

// eventually waits until f has no error.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	waittest.Until(t, what, f)
}

// becomes waits until a query has a value, of one series.
func (r *rig) becomes(expr, want string) {
	r.t.Helper()
	eventually(r.t, expr, func() error {
		for _, got := range r.query(expr) {
			if got == want {
				return nil
			}
		}
		return fmt.Errorf("got %v, want %s", r.query(expr), want)
	})
}

func TestScrapesItself(t *testing.T) {
	t.Parallel()
	r := newRig(t, fast)
	r.start()
	r.events.Add(7)
	r.becomes(`usage_events_total{event_type="a",job="usaged",instance="host:8080"}`, "7")
	r.becomes(`up`, "1")
	var metadata map[string][]struct{ Type, Help string }
	r.get("metadata?metric=usage_events_total", &metadata)
	if m := metadata["usage_events_total"]; len(m) != 1 || m[0].Type != "counter" || m[0].Help != "Events." {
		t.Errorf("metadata are %v", metadata)
	}
}

// TestTheLastScrapeIsOfTheStop reads after a restart what was counted just before the stop.
func TestTheLastScrapeIsOfTheStop(t *testing.T) {
	t.Parallel()
	r := newRig(t, "global: {scrape_interval: 1h}\n")
	r.start()
	eventually(t, "a target", func() error {
		var data struct{ ActiveTargets []any }
		if r.get("targets", &data); len(data.ActiveTargets) != 1 {
			return fmt.Errorf("%d targets", len(data.ActiveTargets))
		}
		return nil
	})
	r.events.Add(9)
	r.stop(r.prom)
	r.start()
	r.becomes(`max_over_time(usage_events_total[5m])`, "9")
}

func TestShippedRulesAreEvaluated(t *testing.T) {
	t.Parallel()
	r := newRig(t, fast)
	r.cfg.Rules = rules.FS
	r.start()
	var data struct {
		Groups []struct {
			Name  string
			Rules []struct{ Name, Health, LastError string }
		}
	}
	files, err := fs.Glob(rules.FS, "*.yml")
	if err != nil || len(files) == 0 {
		t.Fatalf("shipped rule files: %v, %v", files, err)
	}
	r.get("rules", &data)
	if len(data.Groups) < len(files) {
		t.Errorf("%d groups of %d files", len(data.Groups), len(files))
	}
	for _, g := range data.Groups {
		for _, rule := range g.Rules {
			if rule.Health == "err" {
				t.Errorf("%s, %s: %s", g.Name, rule.Name, rule.LastError)
			}
		}
	}
}

const shipped = `groups:
- name: shipped
  rules:
  - {record: "usage:one", expr: vector(1)}
  - {record: "usage:two", expr: vector(2)}
  - {alert: Quiet, expr: vector(1)}
`

// TestAnOperatorsRuleReplacesAShippedOne, and a reload changes it, or does nothing where the file is wrong.
func TestAnOperatorsRuleReplacesAShippedOne(t *testing.T) {
	t.Parallel()
	r := newRig(t, fast)
	r.cfg.Rules = fstest.MapFS{"shipped.yml": {Data: []byte(shipped)}}
	r.cfg.RulesFile = filepath.Join(t.TempDir(), "own.yml")
	own := "groups:\n- name: own\n  rules:\n  - {record: 'usage:one', expr: vector(%s)}\n"
	r.write(r.cfg.RulesFile, fmt.Sprintf(own, "11"))
	r.start()
	r.becomes("usage:one", "11")
	r.becomes("usage:two", "2")
	if got := r.query("count_over_time(usage:one[1m] @ end()) and usage:one == 1"); len(got) != 0 {
		t.Errorf("the shipped rule was evaluated: %v", got)
	}
	r.write(r.cfg.RulesFile, fmt.Sprintf(own, "12"))
	if err := r.prom.Reload(); err != nil {
		t.Fatal(err)
	}
	r.becomes("usage:one", "12")
	r.write(r.cfg.RulesFile, fmt.Sprintf(own, "1 +"))
	if err := r.prom.Reload(); err == nil || !strings.Contains(err.Error(), "own.yml: 4:") {
		t.Errorf("a wrong rule gave the error %v, want the file and the line", err)
	}
	r.becomes("usage:one", "12")
}

// TestAlertsReachAlertmanager has an alert fire and resolve.
func TestAlertsReachAlertmanager(t *testing.T) {
	t.Parallel()
	type alert struct {
		Labels       map[string]string
		GeneratorURL string
		EndsAt       time.Time
	}
	got := make(chan alert, 1000)
	manager := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		var alerts []alert
		if err := json.NewDecoder(req.Body).Decode(&alerts); err != nil || req.URL.Path != "/am/api/v2/alerts" {
			t.Errorf("%s: %v", req.URL.Path, err)
		}
		for _, a := range alerts {
			got <- a
		}
	}))
	t.Cleanup(manager.Close)
	r := newRig(t, "global: {scrape_interval: 50ms, evaluation_interval: 50ms, external_labels: {site: x}}\n")
	r.cfg.AlertmanagerURLs = []string{manager.URL + "/am"}
	r.cfg.Rules = fstest.MapFS{"a.yml": {Data: []byte("groups:\n- name: a\n  rules:\n  - {alert: Many, expr: usage_events_total > 5}\n")}}
	r.start()
	r.events.Add(6)
	a := <-got
	if a.Labels["alertname"] != "Many" || a.Labels["site"] != "x" {
		t.Errorf("the alert has the labels %v", a.Labels)
	}
	if want := "http://host:8080/prometheus/api/v1/query?query=usage_events_total+%3E+5"; a.GeneratorURL != want {
		t.Errorf("the alert leads to %s, want %s", a.GeneratorURL, want)
	}
}

func TestQueriesOfGrafana(t *testing.T) {
	t.Parallel()
	r := newRig(t, fast)
	r.start()
	r.becomes("up", "1")
	now := time.Now().Unix()
	span := fmt.Sprintf("start=%d&end=%d", now-60, now+60)
	for _, path := range []string{
		"query?query=up", "query_range?query=up&step=15&" + span, "labels?" + span, "label/__name__/values?" + span, "series?match[]=up&" + span,
		"metadata", "rules", "alerts", "alertmanagers", "targets", "targets/metadata", "status/buildinfo", "status/runtimeinfo", "status/config",
		"status/flags", "status/tsdb", "query_exemplars?query=up&" + span, "format_query?query=up", "parse_query?query=up", "features", "scrape_pools",
	} {
		var data any
		if code := r.get(path, &data); code != http.StatusOK || data == nil {
			t.Errorf("%s: status %d, data %v", path, code, data)
		}
	}
	for _, path := range []string{"query", "query_range", "labels", "series", "query_exemplars", "format_query"} {
		form := url.Values{"query": {"up"}, "match[]": {"up"}, "start": {fmt.Sprint(now - 60)}, "end": {fmt.Sprint(now)}, "step": {"15"}}
		req := httptest.NewRequest(http.MethodPost, "/prometheus/api/v1/"+path, strings.NewReader(form.Encode()))
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		rec := httptest.NewRecorder()
		r.prom.ServeHTTP(rec, req)
		if rec.Code != http.StatusOK {
			t.Errorf("POST %s: status %d: %s", path, rec.Code, rec.Body)
		}
	}
	for path, want := range map[string]int{"query?query=up{": 400, "nothing": 404, "notifications/live": 204, "write": 405} {
		if code := r.get(path, nil); code != want {
			t.Errorf("%s: status %d, want %d", path, code, want)
		}
	}
}

// TestMetricsAreFew lints what Prometheus adds to the registry, and bounds it.
func TestMetricsAreFew(t *testing.T) {
	t.Parallel()
	r := newRig(t, fast)
	r.cfg.Rules = rules.FS
	r.start()
	r.becomes("up", "1")
	// The text is linted, since what Gather returns shares labels with the scrape that is under way.
	rec := httptest.NewRecorder()
	promhttp.HandlerFor(r.registry, promhttp.HandlerOpts{}).ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/metrics", http.NoBody))
	problems, err := promlint.New(rec.Body).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("lint: %s: %s", p.Metric, p.Text)
	}
	families, err := r.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	if len(families) < 15 || len(families) > 40 {
		t.Errorf("%d families", len(families))
	}
}

func TestWhatIsNotOpenAnswers503(t *testing.T) {
	t.Parallel()
	r := newRig(t, fast)
	r.write(r.cfg.Dir, "not a directory")
	prom := r.open()
	if code := r.get("query?query=up", nil); code != http.StatusServiceUnavailable {
		t.Errorf("status %d, want 503", code)
	}
	if err := os.Remove(r.cfg.Dir); err != nil {
		t.Fatal(err)
	}
	if err := prom.Wait(t.Context()); err != nil {
		t.Fatalf("it does not open when the directory can be made: %v", err)
	}
	if code := r.get("query?query=up", nil); code != http.StatusOK {
		t.Errorf("status %d after that, want 200", code)
	}
}
