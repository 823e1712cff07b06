package exporter_test

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/VictoriaMetrics/metrics"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"usaged/aggregator/meter"
	"usaged/exporter"
)

// source is where an exporter gets its totals.
type source struct {
	totals meter.Totals
	known  bool
	meters []meter.Meter
}

func (s *source) get() (meter.Totals, bool) { return s.totals, s.known }

func (s *source) set(types map[string]uint64) {
	s.totals, s.known = meter.Totals{}, true
	for t, n := range types {
		s.totals[meter.Series{Family: meter.FamilyEvents, A: t}] = n
		s.totals[meter.Series{Family: meter.FamilyDuplicates, A: t}] = 1000
	}
}

func newUsage(t testing.TB, path string, s *source) *exporter.Usage {
	t.Helper()
	u, err := exporter.NewUsage(exporter.UsageConfig{
		Path: path, Totals: s.get, Meters: func() []meter.Meter { return s.meters }, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func want(t *testing.T, u *exporter.Usage, types map[string]uint64) {
	t.Helper()
	text := "# HELP usage_events_total Events, by type. Counted since the data directory was made, without duplicates.\n# TYPE usage_events_total counter\n"
	if len(types) == 0 {
		text = ""
	}
	for typ, n := range types {
		text += fmt.Sprintf("usage_events_total{event_type=%q} %d\n", typ, n)
	}
	if err := testutil.CollectAndCompare(u, strings.NewReader(text), "usage_events_total"); err != nil {
		t.Error(err)
	}
}

func zero(more map[string]uint64) map[string]uint64 {
	all := map[string]uint64{"dashboard_publish": 0, "spreadsheet_formula": 0, "sql_execution": 0, "sql_generation": 0}
	for t, n := range more {
		all[t] = n
	}
	return all
}

func TestUsageNeverFalls(t *testing.T) {
	path := filepath.Join(t.TempDir(), "counters.json")
	s := &source{}
	u := newUsage(t, path, s)
	want(t, u, nil) // absent, not zero
	if n := testutil.CollectAndCount(u); n != 1 {
		t.Errorf("%d series while nothing is known, want none but the errors", n)
	}
	s.set(map[string]uint64{"chat": 5, "sql_generation": 2})
	want(t, u, zero(map[string]uint64{"chat": 5, "sql_generation": 2}))
	s.set(map[string]uint64{"chat": 3}) // the store has lost some
	want(t, u, zero(map[string]uint64{"chat": 5, "sql_generation": 2}))

	s.known = false // a new process, and the store is away
	u = newUsage(t, path, s)
	want(t, u, zero(map[string]uint64{"chat": 5, "sql_generation": 2}))
	s.set(map[string]uint64{"chat": 7})
	want(t, u, zero(map[string]uint64{"chat": 7, "sql_generation": 2}))
}

func TestUsageExportsOnlyWhatIsDurable(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "sub", "counters.json") // cannot be written before sub is made
	s := &source{}
	s.set(map[string]uint64{"chat": 5})
	u := newUsage(t, path, s)
	want(t, u, nil)
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	want(t, u, zero(map[string]uint64{"chat": 5}))
	if err := testutil.CollectAndCompare(u, strings.NewReader(`
# HELP usaged_high_water_write_errors_total Attempts to save the high-water marks of the usage counters that failed, so that the counters stood still.
# TYPE usaged_high_water_write_errors_total counter
usaged_high_water_write_errors_total 1
`), "usaged_high_water_write_errors_total"); err != nil {
		t.Error(err)
	}
}

// everything are totals of every family, and meters with metrics.
func everything() *source {
	return &source{known: true, totals: meter.Totals{
		{Family: meter.FamilyEvents, A: "chat"}:                                        7,
		{Family: meter.FamilyEvents, A: "sql_generation"}:                              2,
		{Family: meter.FamilyDuplicates, A: "chat"}:                                    99,
		{Family: meter.FamilyLate, A: "chat"}:                                          1,
		{Family: meter.FamilyOutcomes, A: "chat", B: "failure"}:                        3,
		{Family: meter.FamilyLateOutcomes, A: "chat", B: "failure"}:                    2,
		{Family: meter.FamilyLatePolicies}:                                             1,
		{Family: meter.FamilySources, A: "unknown"}:                                    8,
		{Family: meter.FamilySources, A: "the \"web\"\n"}:                              1,
		{Family: meter.FamilyTokens, A: "m1", B: "prompt"}:                             10,
		{Family: meter.FamilyTokens, A: "m1", B: "other"}:                              4,
		{Family: meter.FamilyPolicies, A: "pii"}:                                       2,
		{Family: meter.FamilyRows}:                                                     1181,
		{Family: "usage_project_tokens_total:project:model", A: "a%26b&m"}:             5,
		{Family: "usage_project_tokens_total:project:model", A: "__other__&__other__"}: 6,
		{Family: "usage_gone_total:project", A: "a"}:                                   9,
	}, meters: []meter.Meter{
		{Name: "users"},
		{Name: "project-tokens", Description: "Tokens by project.", Metric: &meter.Metric{Name: "usage_project_tokens_total", Labels: []string{"project", "model"}}},
		{Name: "publishes", Metric: &meter.Metric{Name: "usage_publishes_total", Help: "Publications."}},
	}}
}

func TestUsageExportsEveryFamily(t *testing.T) {
	s := everything()
	path := filepath.Join(t.TempDir(), "counters.json")
	golden, err := os.ReadFile(filepath.Join("testdata", "usage.prom"))
	if err != nil {
		t.Fatal(err)
	}
	u := newUsage(t, path, s)
	for _, when := range []string{"at first", "when the totals are gone", "in a new process"} {
		if err := testutil.CollectAndCompare(u, strings.NewReader(string(golden))); err != nil {
			t.Errorf("%s: %v", when, err)
		}
		if s.totals = nil; when == "when the totals are gone" {
			s.known = false
			u = newUsage(t, path, s)
		}
	}
	problems, err := testutil.CollectAndLint(u)
	if err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
}

// A metric that was gone goes on where it stood.
func TestMetricsComeAndGoWithTheirMeters(t *testing.T) {
	s := everything()
	u := newUsage(t, filepath.Join(t.TempDir(), "counters.json"), s)
	meters := s.meters
	for _, c := range []struct {
		meters []meter.Meter
		want   int
	}{{meters, 2}, {nil, 0}, {meters, 2}} {
		s.meters = c.meters
		if n := testutil.CollectAndCount(u, "usage_project_tokens_total"); n != c.want {
			t.Errorf("%d series, want %d", n, c.want)
		}
	}
}

func TestUsageRefusesADamagedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "counters.json")
	for content, reason := range map[string]string{"{": "is damaged", `{"version":2}`: "is damaged", `{"version":1,"usage_events_total":{}}`: "has version 1", `{"version":3,"totals":{}}`: "is damaged"} {
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := exporter.NewUsage(exporter.UsageConfig{Path: path, Totals: (&source{}).get, Log: slog.New(slog.DiscardHandler)})
		if err == nil || !strings.Contains(err.Error(), reason) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want an error that names the file and says %q", content, err, reason)
		}
	}
}

// What a foreign hand wrote into the store must not end the process.
func TestUsageSurvivesTotalsThatCannotBe(t *testing.T) {
	s := everything()
	s.totals[meter.Series{Family: meter.FamilyPolicies, A: "\xff"}] = 1
	s.totals[meter.Series{Family: "usage_project_tokens_total:project:model", A: "one"}] = 1
	reg := prometheus.NewRegistry()
	reg.MustRegister(newUsage(t, filepath.Join(t.TempDir(), "counters.json"), s))
	families, err := reg.Gather()
	if err == nil || len(families) < 8 {
		t.Errorf("%d families, %v; want all and an error", len(families), err)
	}
}

func TestSetCollectorGivesHelpAndTypes(t *testing.T) {
	set := metrics.NewSet()
	set.NewCounter(`usaged_a_total{kind="x"}`).Add(3)
	set.NewCounter(`usaged_a_total{kind="y"}`).Add(1 << 40)
	set.NewGauge("usaged_thing_bytes", func() float64 { return 1.5 })
	c := exporter.NewSetCollector(set, map[string]string{"usaged_a_total": "Things."}, map[string]string{"usaged_thing_bytes": "Bytes."})
	if err := testutil.CollectAndCompare(c, strings.NewReader(`
# HELP usaged_a_total Things.
# TYPE usaged_a_total counter
usaged_a_total{kind="x"} 3
usaged_a_total{kind="y"} 1.099511627776e+12
# HELP usaged_thing_bytes Bytes.
# TYPE usaged_thing_bytes gauge
usaged_thing_bytes 1.5
`)); err != nil {
		t.Error(err)
	}
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(c)
	problems, err := testutil.GatherAndLint(reg)
	if err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
}

// BenchmarkScrape collects 200 event types with everything that they can have, of which some are counted before each scrape.
func BenchmarkScrape(b *testing.B) {
	s := &source{known: true, totals: meter.Totals{}}
	for i := range 200 {
		t := fmt.Sprintf("some_longer_event_type_%d", i)
		s.totals[meter.Series{Family: meter.FamilyEvents, A: t}] = uint64(i)
		s.totals[meter.Series{Family: meter.FamilyLate, A: t}] = uint64(i)
		s.totals[meter.Series{Family: meter.FamilyOutcomes, A: t, B: "success"}] = uint64(i)
		s.totals[meter.Series{Family: meter.FamilyOutcomes, A: t, B: "failure"}] = uint64(i)
	}
	for i := range 100 {
		v := fmt.Sprintf("some_longer_value_%d", i)
		s.totals[meter.Series{Family: meter.FamilySources, A: v}] = uint64(i)
		s.totals[meter.Series{Family: meter.FamilyPolicies, A: v}] = uint64(i)
		for _, kind := range meter.TokenKinds {
			s.totals[meter.Series{Family: meter.FamilyTokens, A: v, B: kind}] = uint64(i)
		}
	}
	u := newUsage(b, filepath.Join(b.TempDir(), "counters.json"), s)
	reg := prometheus.NewRegistry()
	reg.MustRegister(u)
	for b.Loop() {
		s.totals[meter.Series{Family: meter.FamilyEvents, A: "some_longer_event_type_0"}]++
		if _, err := reg.Gather(); err != nil {
			b.Fatal(err)
		}
	}
}
