package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

// TestMetricsGolden compares the families of a daemon that has prices and has had one event, with their help, types and labels, with
// testdata/metrics.golden.
// A change there is a change for every dashboard and alert.
func TestMetricsGolden(t *testing.T) {
	t.Parallel()
	d := newInstance(t, "--prices.file="+pricesFile)
	d.start()
	d.post(`{"event_type":"sql_generation","user_id":"ann","source":"golden","metadata":{"model":"m","total_tokens":"3","policy_filters":"pii"}}`)
	d.settle() // the totals are known, so that the families of usage are there
	eventually(t, "active users", func() error {
		if len(d.gauge("usage_active_users")) == 0 {
			return errors.New("not counted yet")
		}
		return nil
	})
	eventually(t, "the embedded Prometheus, which has metrics of its own", func() error {
		if d.metric("usaged_prometheus_ready") != 1 {
			return errors.New("not ready yet")
		}
		return nil
	})
	text := d.get("/metrics", "")
	problems, err := promlint.New(bytes.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("promlint: %s: %s", p.Metric, p.Text)
	}
	got := describeFamilies(t, text)
	path := filepath.Join("testdata", "metrics.golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("families (-want +got; -update rewrites the file):\n%s", diff)
	}
}

// describeFamilies writes our own families without their values.
func describeFamilies(t *testing.T, text []byte) string {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for _, name := range slices.Sorted(maps.Keys(families)) {
		if !strings.HasPrefix(name, "usage_") && !strings.HasPrefix(name, "usaged_") {
			continue
		}
		f := families[name]
		fmt.Fprintf(&out, "# HELP %s %s\n# TYPE %s %s\n", name, f.GetHelp(), name, strings.ToLower(f.GetType().String()))
		if f.GetHelp() == "" {
			t.Errorf("%s has no help", name)
		}
		for _, m := range f.GetMetric() {
			var pairs []string
			for _, l := range m.GetLabel() {
				value := l.GetValue()
				if name == "usaged_build_info" {
					value = "…"
				}
				pairs = append(pairs, fmt.Sprintf("%s=%q", l.GetName(), value))
			}
			fmt.Fprintf(&out, "%s{%s}\n", name, strings.Join(pairs, ","))
		}
		out.WriteString("\n")
	}
	return out.String()
}

// TestMetricsFormats reads the same counters in every format that a scraper may ask for.
func TestMetricsFormats(t *testing.T) {
	t.Parallel()
	d := newInstance(t)
	d.start()
	d.post(`{"event_type":"a \"quoted\" type","user_id":"ann"}`, `{"event_type":"Tür","user_id":"ann"}`, `{"event_type":"Tür","user_id":"bob"}`)
	d.settle()
	want := map[string]float64{
		`a "quoted" type`: 1, "Tür": 2,
		"sql_execution": 0, "sql_generation": 0, "dashboard_publish": 0, "spreadsheet_formula": 0,
	}
	for _, tc := range []struct {
		name, accept, media string
		read                func(*testing.T, answer) map[string]float64
	}{
		{"it speaks text", "", "text/plain", readExposition},
		{"it speaks OpenMetrics", "application/openmetrics-text;version=1.0.0", "application/openmetrics-text", readOpenMetrics},
		{"it speaks protobuf", "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited",
			"application/vnd.google.protobuf", readExposition},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := d.do(http.MethodGet, "/metrics", "", map[string]string{"Accept": tc.accept}, nil)
			if media, _, err := mime.ParseMediaType(a.header.Get("Content-Type")); a.status != http.StatusOK || media != tc.media {
				t.Fatalf("status %d, Content-Type %q, %v; want %q", a.status, media, err, tc.media)
			}
			if diff := cmp.Diff(want, tc.read(t, a)); diff != "" {
				t.Errorf("usage_events_total (-want +got):\n%s", diff)
			}
		})
	}
}

// readExposition reads text or protobuf. In protobuf the histograms must be native too.
func readExposition(t *testing.T, a answer) map[string]float64 {
	t.Helper()
	format := expfmt.ResponseFormat(a.header)
	dec := expfmt.NewDecoder(bytes.NewReader(a.body), format)
	counters := map[string]float64{}
	for {
		var f dto.MetricFamily
		if err := dec.Decode(&f); errors.Is(err, io.EOF) {
			return counters
		} else if err != nil {
			t.Fatal(err)
		}
		switch f.GetName() {
		case "usage_events_total":
			for _, m := range f.GetMetric() {
				counters[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
			}
		case "usaged_ingest_duration_seconds":
			if format.FormatType() == expfmt.TypeProtoDelim && f.GetMetric()[0].GetHistogram().GetSchema() == 0 {
				t.Error("usaged_ingest_duration_seconds is not a native histogram")
			}
		}
	}
}

var openMetricsLine = regexp.MustCompile(`^usage_events_total\{event_type=("(?:[^"\\]|\\.)*")\} (\S+)$`)

func readOpenMetrics(t *testing.T, a answer) map[string]float64 {
	t.Helper()
	text := string(a.body)
	if !strings.HasSuffix(text, "\n# EOF\n") || !strings.Contains(text, "\n# TYPE usage_events counter\n") {
		t.Errorf("not OpenMetrics: %.1000s", text)
	}
	if strings.Contains(text, "_created") {
		t.Error("created lines, which nearly double the series")
	}
	counters := map[string]float64{}
	for line := range strings.Lines(text) {
		match := openMetricsLine.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
		if match == nil {
			continue
		}
		name, err := strconv.Unquote(match[1])
		if err != nil {
			t.Fatal(err)
		}
		if counters[name], err = strconv.ParseFloat(match[2], 64); err != nil {
			t.Fatal(err)
		}
	}
	return counters
}

// TestMetricsAuth hides the metrics from everybody but viewers and admins.
func TestMetricsAuth(t *testing.T) {
	t.Parallel()
	d := newInstance(t, "--web.metrics-auth")
	d.start()
	for role, want := range map[string]int{"": 401, "user": 403, "producer": 403, "viewer": 200, "admin": 200} {
		if a := d.do(http.MethodGet, "/metrics", role, nil, nil); a.status != want {
			t.Errorf("role %q: status %d, want %d", role, a.status, want)
		}
	}
}
