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
}

func (s *source) get() (meter.Totals, bool) { return s.totals, s.known }

func (s *source) set(types map[string]uint64) {
	s.totals, s.known = meter.Totals{}, true
	for t, n := range types {
		s.totals[meter.Series{Family: meter.FamilyEvents, A: t}] = n
		s.totals[meter.Series{Family: meter.FamilyDuplicates, A: t}] = 1000
	}
}

func newUsage(t *testing.T, path string, s *source) *exporter.Usage {
	t.Helper()
	u, err := exporter.NewUsage(path, s.get, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func want(t *testing.T, u *exporter.Usage, types map[string]uint64) {
	t.Helper()
	text := "# HELP usage_events_total Events counted, by type, since the data directory was made. Duplicates are not counted.\n# TYPE usage_events_total counter\n"
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

func TestUsageCapsItsLabel(t *testing.T) {
	path := filepath.Join(t.TempDir(), "counters.json")
	s := &source{}
	many := map[string]uint64{"zz-first": 1}
	s.set(many)
	want(t, newUsage(t, path, s), zero(many))
	for i := range 300 {
		many[fmt.Sprintf("type-%03d", i)] = 2
	}
	s.set(many)
	expect := zero(map[string]uint64{"zz-first": 1, "__other__": 2 * (300 - 195)})
	for i := range 195 {
		expect[fmt.Sprintf("type-%03d", i)] = 2
	}
	u := newUsage(t, path, s)
	want(t, u, expect)
	// What was admitted stays, also in a new process that meets the types in another order.
	delete(many, "type-000")
	many["aaa"] = 10
	s.set(many)
	expect["__other__"] += 10
	want(t, newUsage(t, path, s), expect)
}

func TestUsageRefusesADamagedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "counters.json")
	for content, reason := range map[string]string{"{": "is damaged", `{"version":1}`: "is damaged", `{"version":2,"usage_events_total":{}}`: "has version 2"} {
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := exporter.NewUsage(path, (&source{}).get, slog.New(slog.DiscardHandler))
		if err == nil || !strings.Contains(err.Error(), reason) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want an error that names the file and says %q", content, err, reason)
		}
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
