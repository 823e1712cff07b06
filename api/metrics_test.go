package api_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"usaged/aggregator"
	"usaged/aggregator/rollup"
	"usaged/api"
)

// The real things fit.
var (
	_ api.Accepter = (*aggregator.Aggregator)(nil)
	_ api.Ledger   = (*aggregator.Aggregator)(nil)
	_ api.Reader   = (*rollup.Reader)(nil)
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestMetricsHaveHelp compares the metrics that exist with the help texts.
func TestMetricsHaveHelp(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	api.NewConnections(1).Expose(r.set)
	exist := map[string]bool{}
	for line := range strings.Lines(r.metricsText()) {
		name, _, _ := strings.Cut(line, " ")
		name, _, _ = strings.Cut(name, "{")
		exist[name] = true
	}
	texts := api.Help()
	for name := range exist {
		if texts[name] == "" {
			t.Errorf("%s has no help text", name)
		}
	}
	for name := range texts {
		if !exist[name] {
			t.Errorf("%s has a help text and doesn't exist from the start", name)
		}
	}
	if problems, err := testutil.GatherAndLint(r.reg); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, error %v", problems, err)
	}
}

// TestRequestsAreCounted makes requests and looks for them in every family.
func TestRequestsAreCounted(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.call("POST", events, "producer", "["+one+","+one+"]")
	r.call("POST", events+"/", "producer", one)
	r.call("POST", events, "producer", "{}")
	r.call("POST", events, "", one)
	r.call("GET", "/api/v1/usage/minutes", "admin", "")
	r.call("GET", "/api/v1/usage/other-names-are-no-labels", "admin", "")
	r.call("GET", "/nowhere", "", "")
	r.journal.err = aggregator.ErrUnavailable
	r.call("POST", events, "producer", "["+one+","+one+"]")
	for _, want := range []string{
		`usaged_http_requests_total{handler="events",code="202"} 2`, `usaged_http_requests_total{handler="events",code="422"} 1`,
		`usaged_http_requests_total{handler="events",code="401"} 1`, `usaged_http_requests_total{handler="meter",code="200"} 1`,
		`usaged_http_requests_total{handler="meter",code="404"} 1`, `usaged_http_requests_total{handler="other",code="404"} 1`,
		`usaged_ingest_events_total 3`, `usaged_ingest_rejected_total{reason="invalid"} 1`,
		`usaged_ingest_rejected_total{reason="unauthorized"} 1`, `usaged_ingest_rejected_total{reason="unavailable"} 1`,
		`usaged_ingest_rejected_total{reason="malformed"} 0`, `usaged_ingest_rejected_events_total{reason="unavailable"} 2`,
		`usaged_http_requests_in_flight 0`,
	} {
		if text := r.metricsText(); !strings.Contains(text, want+"\n") {
			t.Errorf("metrics lack %s:\n%s", want, text)
		}
	}
	families, err := r.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	samples := map[string]uint64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			samples[f.GetName()] += m.GetHistogram().GetSampleCount()
			if m.GetHistogram().GetSchema() == 0 && m.GetHistogram().GetZeroThreshold() == 0 || len(m.GetHistogram().GetBucket()) == 0 {
				t.Errorf("%s is not both native and classic", f.GetName())
			}
		}
	}
	if samples["usaged_ingest_duration_seconds"] != 5 || samples["usaged_ingest_request_events"] != 2 ||
		samples["usaged_http_request_duration_seconds"] != 3 {
		t.Errorf("samples %v", samples)
	}
	if ledger := r.call("GET", "/api/v1/usage/ledger", "admin", "").Body.String(); !strings.Contains(ledger, `"invalid":1,`) {
		t.Errorf("the ledger doesn't know of the rejection: %s", ledger)
	}
}

func TestNewNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	_, err := api.New(api.Config{MaxInflightBytes: -1})
	for _, field := range []string{"Accepter", "Reader", "Ledger", "Tokens", "Logger", "Set", "Registerer", "MaxInflightBytes"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("error %v doesn't name %s", err, field)
		}
	}
	r := newRig(t)
	if _, err := api.New(r.cfg); !errors.As(err, new(prometheus.AlreadyRegisteredError)) {
		t.Errorf("a second API in one registry: error %v", err)
	}
}

// TestPanicInTheMiddleCutsTheConnection breaks an answer that has begun.
func TestPanicInTheMiddleCutsTheConnection(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *api.Config) {
		c.Metrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte("half of a li"))
			panic("nobody's business")
		})
	})
	server := httptest.NewServer(r.handler)
	defer server.Close()
	resp, err := server.Client().Get(server.URL + "/metrics")
	if err == nil {
		_ = resp.Body.Close()
		t.Errorf("the answer looks whole: status %d", resp.StatusCode)
	}
	if !strings.Contains(r.metricsText(), "usaged_http_panics_total 1\n") || !strings.Contains(r.log.String(), "handler panicked") {
		t.Errorf("not counted or not logged: %s", r.log)
	}
	if strings.Contains(r.log.String(), "business") {
		t.Errorf("the log shows the value of the panic: %s", r.log)
	}
}
