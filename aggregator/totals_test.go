package aggregator_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"usaged/aggregator/durable"
	"usaged/aggregator/event"
	"usaged/aggregator/meter"
	"usaged/aggregator/store"
)

// projectMeters are the built-in meters and one with a metric.
func projectMeters() []meter.Meter {
	return append(meter.Builtin(), meter.Meter{
		Name: "project-tokens", Value: "total_tokens", Sum: []string{"prompt_tokens", "completion_tokens"}, Reference: "project",
		Metric: &meter.Metric{Name: "usage_project_tokens_total", Labels: []string{"project", "model"}},
	})
}

// fewLabels are limits that the property tests exceed.
var fewLabels = meter.Limits{EventTypes: 4, Sources: 2, Models: 2, Policies: 2, Metric: 3}

// genDetails draws what lifetime totals read of an event. Copies of an event have the same.
func genDetails(rt *rapid.T, e *sent) {
	if e.ID != "" {
		n, _ := strconv.Atoi(e.ID)
		e.Source = fmt.Sprintf("s%d", n%4)
		e.Metadata = map[string]string{"outcome": "success", "model": fmt.Sprintf("m%d", n%3), "prompt_tokens": e.ID}
		return
	}
	e.Source = rapid.SampledFrom([]string{"", "", "s1", "s2", "s3"}).Draw(rt, "source")
	e.Metadata = rapid.MapOfN(
		rapid.SampledFrom([]string{"outcome", "model", "project", "prompt_tokens", "completion_tokens", "total_tokens", "policy_filters", "rows"}),
		rapid.SampledFrom([]string{"success", "failure", "1", "2", "3", "10", "x, y ,,x", "z,w", "a&b", ""}), 0, 6).Draw(rt, "metadata")
	if rapid.IntRange(0, 4).Draw(rt, "late") == 0 {
		e.Late = time.Duration(rapid.IntRange(0, 2).Draw(rt, "hours")) * time.Hour
	}
}

// families counts what the lifetime totals of an event should be, from the documentation: "family/a/b" → total.
func families(e sent) map[string]uint64 {
	sums := map[string]uint64{}
	add := func(n uint64, parts ...string) {
		if n > 0 {
			sums[strings.Join(parts, "/")] += n
		}
	}
	number := func(key string) uint64 {
		n, _ := strconv.ParseUint(e.Metadata[key], 10, 64)
		return n
	}
	orUnknown := func(s string) string {
		if s == "" {
			return "unknown"
		}
		return s
	}
	add(1, "events", e.Type)
	add(1, "sources", orUnknown(e.Source))
	late := uint64(0)
	if e.Late > time.Hour {
		late = 1
	}
	add(late, "late", e.Type)
	if o := e.Metadata["outcome"]; o == "success" || o == "failure" {
		add(1, "outcomes", e.Type, o)
		add(late, "late_outcomes", e.Type, o)
	}
	prompt, completion, total := number("prompt_tokens"), number("completion_tokens"), number("total_tokens")
	model := orUnknown(e.Metadata["model"])
	add(prompt, "tokens", model, "prompt")
	add(completion, "tokens", model, "completion")
	if total > prompt+completion {
		add(total-prompt-completion, "tokens", model, "other")
	}
	if total == 0 {
		total = prompt + completion
	}
	set := strings.ReplaceAll(orUnknown(e.Metadata["project"]), "&", "%26") + "&" + strings.ReplaceAll(model, "&", "%26")
	add(total, "usage_project_tokens_total:project:model", set)
	if e.Type == "sql_execution" {
		add(number("rows"), "rows", "")
	}
	if e.Type == "sql_generation" {
		var policies []string
		for p := range strings.SplitSeq(e.Metadata["policy_filters"], ",") {
			if p = strings.TrimSpace(p); p != "" && !slices.Contains(policies, p) {
				policies = append(policies, p)
				add(1, "policies", p)
				add(late, "late_policies", "")
			}
		}
	}
	return sums
}

// compareFamilies compares the totals of all daemons with the naive count: what has a label of its own must be exact, and
// the rest under __other__. Several daemons give room to different values, so that only the sums can be told.
func compareFamilies(want map[string]uint64, totals map[meter.Series]uint64, alone bool) string {
	rest := map[string]uint64{}
	for key, n := range want {
		family, _, _ := strings.Cut(key, "/")
		rest[family] += n
	}
	for s, n := range totals {
		if s.Family == meter.FamilyDuplicates || n == 0 {
			continue
		}
		rest[s.Family] -= n
		key := strings.TrimSuffix(s.Family+"/"+s.A+"/"+s.B, "/")
		if s.A == "" { // it has no labels
			key = s.Family + "/"
		}
		if alone && !strings.Contains(s.A, event.Other) && want[key] != n {
			return fmt.Sprintf("%s is %d, want %d", key, n, want[key])
		}
	}
	for family, n := range rest {
		if n != 0 {
			return fmt.Sprintf("the family %s lacks %d", family, int64(n))
		}
	}
	return ""
}

// A value that once had no room has none for ever, and the one that had some keeps it: over restarts, and when everything is
// counted again by partitions that are at different places.
func TestLabelsAreTheSameWhenEverythingIsCountedAgain(t *testing.T) {
	dir := memoryDir(t)
	synctest.Test(t, func(t *testing.T) {
		st, l := newFaulty(16), newLedger()
		d := openDaemon(t, dir, st)
		d.close()
		d.cfg.Meters, d.cfg.Labels = projectMeters(), fewLabels
		d.cfg.Labels.EventTypes = 6
		d.open()
		for i := range 40 {
			d.accept(l, sent{
				UserID: fmt.Sprintf("u%d", i), Type: fmt.Sprintf("type-%d", i%7), Source: fmt.Sprintf("source-%d", i%5),
				Metadata: map[string]string{"model": fmt.Sprintf("m%d", i%6), "project": fmt.Sprintf("p%d", i%4), "prompt_tokens": fmt.Sprint(1 + i)},
			})
			if i == 20 {
				settle()
				totals, _ := d.agg.Totals()
				checkLabelsFile(t, dir, totals)
				d.close()
				d.open()
			}
		}
		settle()
		if wrong := difference(t, l, st, d); wrong != "" {
			t.Fatal(wrong)
		}
		before, _ := d.agg.Totals()
		if before[meter.Series{Family: meter.FamilySources, A: event.Other}] != 24 { // of 5 sources 2 have room
			t.Errorf("totals %v, want 24 events of other sources", before)
		}
		for i, lose := range []func(){
			func() {},
			func() { // what came first is counted last
				d.close()
				st.forget()
				st.fail(0, 0, store.PartitionOf([]byte("u0"), 16))
				d.open()
				settle()
				st.fail(0, 0, -1)
			},
			func() { // the labels are learnt from the totals
				d.close()
				if err := os.Remove(filepath.Join(dir, "labels.json")); err != nil {
					t.Fatal(err)
				}
				d.open()
				settle()
			},
		} {
			lose()
			if i != 1 {
				st.forget()
			}
			settle()
			after, _ := d.agg.Totals()
			if i == 2 { // which types had a label can only be told while there is room for all
				isType := func(s meter.Series, _ uint64) bool { return s.Family == meter.FamilyEvents }
				maps.DeleteFunc(before, isType)
				maps.DeleteFunc(after, isType)
			}
			if diff := cmp.Diff(before, after); diff != "" {
				t.Errorf("case %d: counted again (-before +after):\n%s", i, diff)
			}
		}
		d.close()
	})
}

// checkLabelsFile expects the file to know every source and model that has a total of its own, and no room for another.
func checkLabelsFile(t *testing.T, dir string, totals meter.Totals) {
	t.Helper()
	labels := meter.NewLabels(fewLabels)
	if _, err := (durable.Format{Version: 2}).LoadJSON(filepath.Join(dir, "labels.json"), labels); err != nil {
		t.Fatal(err)
	}
	for family, label := range map[string]string{meter.FamilySources: meter.LabelSource, meter.FamilyTokens: meter.LabelModel} {
		if got := labels.Admit(label, []byte("another")); got != event.Other {
			t.Errorf("%s has room for %s", label, got)
		}
		for s := range totals {
			if got := labels.Admit(label, []byte(s.A)); s.Family == family && got != s.A {
				t.Errorf("%s %s is %s in the file", label, s.A, got)
			}
		}
	}
}

// The last event of a type is known after a restart, and a clock that was ahead is forgotten with the next event.
func TestNewestEventsAreKnownAfterARestart(t *testing.T) {
	dir := memoryDir(t)
	synctest.Test(t, func(t *testing.T) {
		st, l := newFaulty(1), newLedger()
		d := openDaemon(t, dir, st)
		d.cfg.Retention = 1
		d.close()
		d.open()
		want := map[string]time.Time{}
		accept := func(eventType string) {
			want[eventType] = time.Now().Truncate(time.Millisecond)
			d.accept(l, sent{UserID: "ann", Type: eventType})
		}
		check := func(when string) {
			t.Helper()
			settle()
			if diff := cmp.Diff(want, d.agg.Newest(), cmp.Comparer(func(a, b time.Time) bool { return a.Equal(b) })); diff != "" {
				t.Errorf("%s (-want +got):\n%s", when, diff)
			}
		}
		accept("chat")
		time.Sleep(26 * time.Hour) // so that a segment ends
		accept("sql_generation")
		check("at first")
		d.close()
		d.open()
		check("after a restart")
		time.Sleep(5 * 24 * time.Hour)
		accept("sql_generation")
		time.Sleep(26 * time.Hour)
		check("after the first event has left the journal")
		d.close()
		d.open()
		check("after a restart without it")
		d.close()
	})
}
