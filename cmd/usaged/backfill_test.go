package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// backfillState is an answer of the API and of usagectl.
type backfillState struct {
	Phase, Error string
	Last         *struct {
		Events, Samples uint64
		Types           int
		From, Until     time.Time
	}
}

// backfill has the past written, and waits.
func (d *instance) backfill() *backfillState {
	d.tb.Helper()
	got := d.usagectl("backfill", "--wait", "--output=json")
	var state backfillState
	if err := json.Unmarshal([]byte(got.stdout), &state); err != nil || got.code != 0 {
		d.tb.Fatalf("backfill: exit code %d, %v: %s%s", got.code, err, got.stdout, got.stderr)
	}
	return &state
}

// mustPromQL asks the embedded Prometheus, which has just been started, perhaps.
func (d *instance) mustPromQL(expr string) (series []promSeries) {
	d.tb.Helper()
	eventually(d.tb, expr, func() (err error) {
		series, err = d.promQL(expr)
		return err
	})
	return series
}

var activityWindows = map[string]time.Duration{"15m": 15 * time.Minute, "1h": time.Hour, "6h": 6 * time.Hour, "1d": 24 * time.Hour}

// TestBackfillWikipedia imports a day of edits as those of some days ago, twice, and compares every sample of the past with
// a count of the edits in the window before it.
func TestBackfillWikipedia(t *testing.T) {
	t.Parallel()
	file := realData(t, wikiFile)
	d := newInstance(t)
	d.start()
	first, err := time.Parse(time.DateOnly, wikiDay)
	if err != nil {
		t.Fatal(err)
	}
	shift := int(time.Since(first).Hours()/24) - 3
	for range 2 { // the second time all are duplicates
		d.importFile(0, fmt.Sprintf("--shift-days=%d", shift), "--jq="+wikiJQ, file)
	}
	state := d.backfill()
	times := map[string][]time.Time{}
	events := readRecords[wikiEdit](t, file)
	for _, r := range events {
		at := r.Time.AddDate(0, 0, shift)
		times[r.Channel] = append(times[r.Channel], at)
		times["__all__"] = append(times["__all__"], at)
	}
	for _, list := range times {
		slices.SortFunc(list, time.Time.Compare)
	}
	if state.Last.Events != uint64(len(events)) || state.Last.Types != len(times)-1 {
		t.Errorf("%+v, want %d events of %d types", state.Last, len(events), len(times)-1)
	}
	compareActivity(t, d, times, state.Last.Until)

	if got := d.mustPromQL(`usage_events_total offset 1d`); len(got) != 0 {
		t.Errorf("a counter has a past: %v", got)
	}
	if again := d.backfill(); again.Last.Until.Equal(state.Last.Until) && again.Last.Samples != state.Last.Samples {
		t.Errorf("another backfill has %d samples, the first %d", again.Last.Samples, state.Last.Samples)
	}
	compareActivity(t, d, times, state.Last.Until)
	d.kill()
	d.start()
	compareActivity(t, d, times, state.Last.Until)
	d.stop()
}

// compareActivity compares all samples up to a time with the events of each type, which are sorted.
func compareActivity(t *testing.T, d *instance, times map[string][]time.Time, until time.Time) {
	t.Helper()
	const step = 5 * time.Minute
	from := times["__all__"][0].Add(-48 * time.Hour)
	span := int(until.Sub(from).Seconds())
	samples := 0
	for window, length := range activityWindows {
		series := d.mustPromQL(fmt.Sprintf(`usage:activity:observed{window=%q}[%ds] @ %d`, window, span, until.Unix()))
		if len(series) != len(times) {
			t.Fatalf("%d series in %s, want %d", len(series), window, len(times))
		}
		sums := map[int64]float64{} // of the types that are known
		slices.SortFunc(series, func(a, b promSeries) int { return -strings.Compare(a.Metric["event_type"], b.Metric["event_type"]) })
		for _, s := range series {
			eventType, i := s.Metric["event_type"], 0
			if eventType == "__all__" {
				continue
			}
			list := times[eventType]
			for at := list[0].Add(length + step - 1).Truncate(step); !at.After(until); at = at.Add(step) {
				behind := func(limit time.Time) int { // how many are not behind it
					n, _ := slices.BinarySearchFunc(list, limit, func(e, limit time.Time) int {
						if e.After(limit) {
							return 1
						}
						return -1
					})
					return n
				}
				want := float64(behind(at) - behind(at.Add(-length)))
				sums[at.Unix()] += want
				if i == len(s.Values) || s.Values[i][0].(float64) != float64(at.Unix()) || s.Values[i][1] != fmt.Sprint(want) {
					t.Fatalf("%s in %s: sample %d of %d should be %v at %v", eventType, window, i, len(s.Values), want, at)
				}
				i++
			}
			if i != len(s.Values) {
				t.Errorf("%s in %s has %d samples, want %d", eventType, window, len(s.Values), i)
			}
			samples += i
		}
		all := series[slices.IndexFunc(series, func(s promSeries) bool { return s.Metric["event_type"] == "__all__" })]
		for _, v := range all.Values {
			if want := fmt.Sprint(sums[int64(v[0].(float64))]); v[1] != want {
				t.Fatalf("all in %s: %v, want %v", window, v, want)
			}
		}
		if len(all.Values) != len(sums) {
			t.Errorf("all in %s has %d samples, want %d", window, len(all.Values), len(sums))
		}
	}
	t.Logf("%d samples compared", samples)
}

// TestBackfillExpectation imports four weeks into a fresh daemon. Then the rules know what to expect, and how much it varies.
func TestBackfillExpectation(t *testing.T) {
	t.Parallel()
	rules := fastRules(t, "health.yml")
	hurry(t, strings.TrimPrefix(rules, "--rules.file="))
	d := newInstance(t, prometheusFile(t, fastScrapes), rules)
	d.start()
	if r := d.usagectl("simulate", "--days=30", "--events-per-day=2000"); r.code != 0 {
		t.Fatal(r.stderr)
	}
	if got := d.mustPromQL("usage:activity:expected"); len(got) != 0 {
		t.Fatalf("before the backfill this is expected: %v", got)
	}
	d.backfill()
	types := map[string]bool{"__all__": true, "sql_generation": true, "sql_execution": true, "dashboard_publish": true, "spreadsheet_formula": true}
	for _, metric := range []string{"usage:activity:expected", "usage:activity:dispersion", "usage:activity:lower"} {
		eventually(t, metric, func() error {
			series, err := d.promQL(metric)
			have := map[string]bool{}
			for _, s := range series {
				have[s.Metric["event_type"]] = have[s.Metric["event_type"]] || types[s.Metric["event_type"]]
			}
			if err == nil && len(have) != len(types) {
				err = fmt.Errorf("it is of %v", have)
			}
			return err
		})
	}
	// The median of four weeks is the mean of the two in the middle.
	eventually(t, "the weeks, and what is expected of them", func() error {
		expr := `usage:activity:%s{event_type="__all__",window="1h"} @ %d`
		now := time.Now().Unix()
		var weeks []float64
		for _, s := range d.mustPromQL(fmt.Sprintf(expr, "past", now)) {
			weeks = append(weeks, number(t, s))
		}
		expected := d.mustPromQL(fmt.Sprintf(expr, "expected", now))
		slices.Sort(weeks)
		if len(weeks) != 4 || len(expected) != 1 || math.Abs(number(t, expected[0])-(weeks[1]+weeks[2])/2) > 1e-6*weeks[3] {
			return fmt.Errorf("the weeks had %v, and %v is expected", weeks, expected)
		}
		return nil
	})
	d.stop()
	d.start()
	if got := d.mustPromQL(`usage:activity:observed{event_type="__all__",window="1h"} offset 2w`); len(got) != 1 {
		t.Errorf("after a restart two weeks ago were %v", got)
	}
}

// hurry has rules evaluated every second that are evaluated every hour, or three times in it.
func hurry(t *testing.T, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, seldom := range []string{"1h", "20m"} {
		data = bytes.ReplaceAll(data, []byte("    interval: "+seldom+"\n"), []byte("    interval: 1s\n"))
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func number(t *testing.T, s promSeries) (v float64) {
	t.Helper()
	if _, err := fmt.Sscan(s.Value[1].(string), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// TestBackfillIsKilled kills the daemon as soon as it has noted a backfill, some times. In the end it is done.
func TestBackfillIsKilled(t *testing.T) {
	t.Parallel()
	d := newInstance(t)
	d.start()
	if r := d.usagectl("simulate", "--days=20", "--events-per-day=500", "--wait"); r.code != 0 {
		t.Fatal(r.stderr)
	}
	for _, delay := range []time.Duration{0, 20 * time.Millisecond, 100 * time.Millisecond, 300 * time.Millisecond} {
		if a := d.do(http.MethodPost, "/api/v1/usage/backfill", "admin", nil, nil); a.status != http.StatusAccepted {
			t.Fatalf("status %d: %s", a.status, a.body)
		}
		<-time.After(delay)
		d.kill()
		d.start()
	}
	eventually(t, "the backfill", func() error {
		var state backfillState
		d.getJSON("/api/v1/usage/backfill", &state)
		if state.Phase != "idle" || state.Last == nil {
			return fmt.Errorf("%+v", state)
		}
		return nil
	})
	counted := d.ledger().Types["sql_execution"].Counted
	got := d.mustPromQL(`sum_over_time(usage:activity:observed{event_type="sql_execution",window="1d"}[30d:1d] @ ` + fmt.Sprint(time.Now().Unix()/300*300) + `)`)
	if len(got) != 1 || number(t, got[0]) < 0.8*float64(counted) || number(t, got[0]) > float64(counted) {
		t.Errorf("the days have %v events, %d were counted", got, counted)
	}
	table := d.usagectl("backfill", "--wait")
	if want := "events read  " + thousand(d.ledger().All.Counted); table.code != 0 || !strings.HasPrefix(table.stdout, want) {
		t.Errorf("usagectl backfill: exit code %d, %s%s; want %s", table.code, table.stdout, table.stderr, want)
	}
}

// thousand writes a number of less than a million with a comma.
func thousand(n uint64) string { return fmt.Sprintf("%d,%03d", n/1000, n%1000) }

// TestBackfillWithoutPrometheus says why there is none.
func TestBackfillWithoutPrometheus(t *testing.T) {
	t.Parallel()
	d := newInstance(t, "--prometheus.enabled=false")
	d.start()
	got := d.usagectl("backfill")
	if got.code == 0 || !strings.Contains(got.stderr, "--prometheus.enabled=false") {
		t.Errorf("exit code %d, %s", got.code, got.stderr)
	}
}
