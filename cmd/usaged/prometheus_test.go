package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	compliance "github.com/prometheus/compliance/remotewrite/sender"
	"github.com/prometheus/prometheus/model/labels"

	"usaged/exporter/remotewrite/remotewritetest"
)

const prometheusPath = "/prometheus/api/v1/"

// fastScrapes is a --config.file with which samples are not long in coming.
const fastScrapes = "global: {scrape_interval: 100ms, scrape_timeout: 100ms, evaluation_interval: 100ms}\n"

// prometheusFile writes a --config.file and returns the flag.
func prometheusFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "prometheus.yml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return "--config.file=" + path
}

// promSeries is one series of an answer.
type promSeries struct {
	Metric map[string]string
	Value  [2]any
	Values [][2]any
}

// promQL asks the embedded Prometheus as a viewer.
func (d *instance) promQL(expr string) ([]promSeries, error) {
	d.tb.Helper()
	a := d.do(http.MethodGet, prometheusPath+"query?query="+url.QueryEscape(expr), "viewer", nil, nil)
	if a.status != http.StatusOK {
		return nil, fmt.Errorf("%s: status %d: %s", expr, a.status, a.body)
	}
	var answer struct{ Data struct{ Result []promSeries } }
	if err := json.Unmarshal(a.body, &answer); err != nil {
		return nil, err
	}
	return answer.Data.Result, nil
}

// becomes waits until an expression is of one series with a value.
func (d *instance) becomes(expr, want string) {
	d.tb.Helper()
	eventually(d.tb, expr, func() error {
		got, err := d.promQL(expr)
		if err == nil && (len(got) != 1 || fmt.Sprint(got[0].Value[1]) != want) {
			err = fmt.Errorf("got %v, want %s", got, want)
		}
		return err
	})
}

// TestPrometheus counts an event, and asks for it as Grafana does.
func TestPrometheus(t *testing.T) {
	t.Parallel()
	d := newInstance(t, prometheusFile(t, fastScrapes))
	d.start()
	d.post(`{"event_type":"a","user_id":"ann"}`)
	d.becomes(`sum(usage_events_total{event_type="a",job="usaged"})`, "1")
	if got := d.usagectl("query", `sum(usage_events_total{event_type="a"})`); got.code != 0 || !strings.HasSuffix(strings.TrimSpace(got.stdout), " 1") {
		t.Errorf("usagectl query: exit code %d, %s%s", got.code, got.stdout, got.stderr)
	}
	d.grafana()
	for role, want := range map[string]int{"": 401, "user": 403, "viewer": 403, "producer": 404, "admin": 404} { // the receiver is off
		if a := d.do(http.MethodPost, prometheusPath+"write", role, nil, nil); a.status != want {
			t.Errorf("a write as %q: status %d, want %d", role, a.status, want)
		}
	}
}

// grafana makes the calls of Grafana's data source for Prometheus, which viewers and admins may make.
func (d *instance) grafana() {
	d.tb.Helper()
	form := map[string]string{"Content-Type": "application/x-www-form-urlencoded"}
	now := time.Now().Unix()
	span := fmt.Sprintf("&start=%d&end=%d", now-60, now)
	for _, call := range []struct{ method, path, body string }{
		{http.MethodGet, "query?query=up", ""},
		{http.MethodPost, "query", "query=up"},
		{http.MethodGet, "query_range?query=up&step=15" + span, ""},
		{http.MethodPost, "query_range", "query=up&step=15" + span},
		{http.MethodGet, "labels?limit=10" + span, ""},
		{http.MethodPost, "labels", "match[]=up" + span},
		{http.MethodGet, "label/__name__/values?match[]=up" + span, ""},
		{http.MethodGet, "series?match[]=up" + span, ""},
		{http.MethodPost, "series", "match[]=up" + span},
		{http.MethodGet, "metadata?limit=10", ""},
		{http.MethodGet, "rules", ""},
		{http.MethodGet, "alerts", ""},
		{http.MethodGet, "targets", ""},
		{http.MethodGet, "status/buildinfo", ""},
		{http.MethodGet, "status/runtimeinfo", ""},
		{http.MethodGet, "status/flags", ""},
		{http.MethodGet, "query_exemplars?query=up" + span, ""},
		{http.MethodPost, "query_exemplars", "query=up" + span},
		{http.MethodGet, "format_query?query=up", ""},
		{http.MethodPost, "format_query", "query=up"},
		{http.MethodGet, "parse_query?query=up", ""},
		{http.MethodPost, "parse_query", "query=up"},
	} {
		for role, want := range map[string]int{"": 401, "user": 403, "producer": 403, "viewer": 200, "admin": 200} {
			a := d.do(call.method, prometheusPath+call.path, role, form, []byte(call.body))
			if a.status != want || (want == http.StatusOK) != bytes.Contains(a.body, []byte(`"status":"success"`)) {
				d.tb.Errorf("%s %s as %q: status %d, want %d: %s", call.method, call.path, role, a.status, want, a.body)
			}
		}
	}
}

// TestPrometheusOff does without.
func TestPrometheusOff(t *testing.T) {
	t.Parallel()
	d := newInstance(t, "--prometheus.enabled=false")
	d.start()
	if a := d.do(http.MethodGet, prometheusPath+"query?query=up", "viewer", nil, nil); a.status != http.StatusNotFound {
		t.Errorf("status %d, want 404", a.status)
	}
	if _, err := os.Stat(filepath.Join(d.dir, "tsdb")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a TSDB was made: %v", err)
	}
	if bytes.Contains(d.get("/metrics", ""), []byte("prometheus_tsdb")) {
		t.Error("/metrics has a TSDB")
	}
	got := runDaemon(t, cleanEnv(), "--prometheus.enabled=false", "--remote-write.url=http://x", "--check-config")
	if got.code != 2 || !strings.Contains(got.stderr, "--prometheus.enabled=false: ") {
		t.Errorf("remote write without Prometheus: exit code %d, %s", got.code, got.stderr)
	}
}

// TestPrometheusConfigFile has wrong files at the start and at a reload.
func TestPrometheusConfigFile(t *testing.T) {
	t.Parallel()
	flag := prometheusFile(t, "global:\n  scrape_interval: 100ms\nstorage: {}\n")
	_, path, _ := strings.Cut(flag, "=")
	checkRefusedFile(t, flag, path+":3: storage is not known here")
	write := func(text string) { rewriteFile(t, path, text) }
	write(fastScrapes)
	d := newInstance(t, flag)
	d.start()
	d.becomes("count(up)", "1")
	write(fastScrapes + "scrape_configs: [{job_name: again, static_configs: [{targets: [" + strings.TrimPrefix(d.url, "http://") + "]}]}]\n")
	d.signal(syscall.SIGHUP)
	d.becomes(`up{job="again"}`, "1")
	write("nonsense")
	if a := d.do(http.MethodPost, "/-/reload", "admin", nil, nil); a.status != http.StatusInternalServerError || !strings.Contains(string(a.body), "prometheus.yml:1: ") {
		t.Errorf("reload of a wrong file: status %d, %s; want 500, the file and the line", a.status, a.body)
	}
	write(fastScrapes)
	if a := d.do(http.MethodPost, "/-/reload", "admin", nil, nil); a.status != http.StatusOK {
		t.Errorf("reload: status %d, want 200", a.status)
	}
	d.becomes("count(count_over_time(up[1s]))", "1") // a job that is gone leaves its last samples for five minutes
}

// TestRemoteWriteSurvivesAKill kills the daemon with SIGKILL while its receivers, of 1.0 and 2.0, are away. Whatever the TSDB
// has afterwards, they have exactly once.
func TestRemoteWriteSurvivesAKill(t *testing.T) {
	t.Parallel()
	one, two := remotewritetest.New(t), remotewritetest.New(t)
	const endpoint = "- {url: %s, protobuf_message: %s, send_native_histograms: true, queue_config: {batch_send_deadline: 200ms}}\n"
	d := newInstance(t, prometheusFile(t, fastScrapes+"remote_write:\n"+
		fmt.Sprintf(endpoint, one.URL, "prometheus.WriteRequest")+fmt.Sprintf(endpoint, two.URL, "io.prometheus.write.v2.Request")))
	d.start()
	d.post(`{"event_type":"a","user_id":"ann"}`)
	both := func(what string, so func(r *remotewritetest.Receiver) bool) {
		t.Helper()
		for _, r := range []*remotewritetest.Receiver{one, two} {
			r.Await(t, what, func() bool { return so(r) })
		}
	}
	both("samples", func(r *remotewritetest.Receiver) bool { return len(r.Samples()) > 100 })
	one.Answer(http.StatusServiceUnavailable)
	two.Answer(http.StatusServiceUnavailable)
	both("failures", func(r *remotewritetest.Receiver) bool { return r.Requests(http.StatusServiceUnavailable) > 1 })
	d.kill()
	d.start()
	d.becomes("count(up)", "1")
	one.Answer(0)
	two.Answer(0)

	var stored []promSeries
	eventually(t, "samples from before the kill and after it", func() (err error) {
		stored, err = d.promQL(`{__name__=~".+"}[10m]`)
		if err == nil && len(stored) < 100 {
			err = fmt.Errorf("%d series", len(stored))
		}
		return err
	})
	d.stop() // which sends what is left
	samples := 0
	for _, r := range []*remotewritetest.Receiver{one, two} {
		got := r.Samples()
		for _, s := range stored {
			name := canonical(s.Metric)
			for _, v := range s.Values {
				samples++
				at := int64(v[0].(float64)*1000 + 0.5)
				if n := got[name][at].Times; n != 1 {
					t.Fatalf("%s at %d came %d times", name, at, n)
				}
			}
		}
		if repeated := r.Repeated(); len(repeated) > 0 {
			t.Errorf("%d samples came more than once, the first: %s", len(repeated), repeated[0])
		}
	}
	t.Logf("%d samples", samples)
}

// canonical writes a series as labels.Labels does, which is what receivers are asked by.
func canonical(series map[string]string) string { return labels.FromMap(series).String() }

// complianceFile scrapes the suite's target and sends its samples, and only those, to the suite's receiver. The suite wants
// one sample of each series in a request, so that the target is scraped less often than an endpoint is sent to.
const complianceFile = `
global: {scrape_interval: 8s, scrape_timeout: 8s}
scrape_configs:
- {job_name: %[1]s, static_configs: [{targets: ["%[2]s"]}]}
remote_write:
- url: %[3]s
  protobuf_message: %[4]s
  send_exemplars: true
  send_native_histograms: true
  metadata_config: {send: false}
  write_relabel_configs: [{source_labels: [job], regex: %[1]s, action: keep}]
`

// complianceSender is a daemon as the suite starts and stops one.
type complianceSender struct{ t *testing.T }

func (complianceSender) Name() string { return "usaged" }

func (s complianceSender) Run(ctx context.Context, o compliance.Options) error {
	d := newInstance(s.t, prometheusFile(s.t, fmt.Sprintf(complianceFile, o.ScrapeTargetJobName, o.ScrapeTargetHostPort,
		o.RemoteWriteEndpointURL, o.RemoteWriteMessage)))
	d.start()
	<-ctx.Done()
	d.stop()
	return nil
}

// TestRemoteWriteCompliance runs Prometheus' compliance suite for senders of remote write against whole daemons, with the
// defaults of an endpoint. The quick part is TestCompliance of package embedded.
func TestRemoteWriteCompliance(t *testing.T) {
	t.Parallel()
	if !full() {
		t.Skip("make compliance runs this")
	}
	compliance.RunTests(t, complianceSender{t}, compliance.ComplianceTests())
}
