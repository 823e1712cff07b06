package meter_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"usaged/aggregator/event"
	"usaged/aggregator/meter"
)

// metered are meters with metrics: with labels, of a sum, and of events alone without labels.
var metered = append(meter.Builtin(),
	meter.Meter{Name: "by-project", Value: "total_tokens", Sum: []string{"prompt_tokens"}, Metric: &meter.Metric{Name: "usage_a_total", Labels: []string{"project", "model"}}},
	meter.Meter{Name: "publishes", Events: []string{"dashboard_publish"}, Metric: &meter.Metric{Name: "usage_b_total", Labels: []string{"adapter"}}},
	meter.Meter{Name: "all", Metric: &meter.Metric{Name: "usage_c_total"}})

// admission is the documentation's rule for labels: the first values get room.
type admission struct {
	limit  map[string]int
	values map[string][]string
}

func (a *admission) admit(label, value string) string {
	if value == "unknown" || value == "__other__" || slices.Contains(a.values[label], value) {
		return value
	}
	if len(a.values[label]) >= a.limit[label] {
		return "__other__"
	}
	a.values[label] = append(a.values[label], value)
	return value
}

// naiveTotals counts the lifetime totals of one event as the documentation says.
func naiveTotals(a *admission, sums map[string]uint64, e sent) {
	add := func(n uint64, parts ...string) {
		if n > 0 {
			key := strings.Join(parts, " ")
			sums[key] += n
		}
	}
	number := func(key string) uint64 {
		n, ok := new(big.Rat).SetString(e.Metadata[key])
		if !ok || !n.IsInt() || n.Sign() < 0 || n.Num().Cmp(big.NewInt(1_000_000_000)) > 0 {
			return 0
		}
		return n.Num().Uint64()
	}
	value := func(key string) string {
		if v := e.Metadata[key]; v != "" {
			return strings.ReplaceAll(strings.ReplaceAll(v, "%", "%25"), "&", "%26")
		}
		return "unknown"
	}
	eventType := a.admit("event_type", e.Type)
	add(1, "events", e.Type)
	late := now.Sub(e.CreatedAt) > time.Hour
	if late {
		add(1, "late", eventType)
	}
	if o := e.Metadata["outcome"]; o == "success" || o == "failure" {
		add(1, "outcomes", eventType, o)
		if late {
			add(1, "late_outcomes", eventType, o)
		}
	}
	source := e.Source
	if source == "" {
		source = "unknown"
	}
	add(1, "sources", a.admit("source", source))
	prompt, completion, total := number("prompt_tokens"), number("completion_tokens"), number("total_tokens")
	leftOut := slices.ContainsFunc([]string{"prompt_tokens", "completion_tokens", "total_tokens"}, func(key string) bool {
		text, has := e.Metadata[key]
		return has && number(key) == 0 && text != "0"
	})
	if prompt+completion+total > 0 || leftOut {
		model := "unknown"
		if e.Metadata["model"] != "" {
			model = e.Metadata["model"]
		}
		model = a.admit("model", model)
		add(prompt, "tokens", model, "prompt")
		add(completion, "tokens", model, "completion")
		if total > prompt+completion {
			add(total-prompt-completion, "tokens", model, "other")
		}
	}
	switch e.Type {
	case "sql_execution":
		add(number("rows"), "rows", "")
	case "sql_generation":
		seen := map[string]bool{}
		for p := range strings.SplitSeq(e.Metadata["policy_filters"], ",") {
			if p = strings.TrimSpace(p); p != "" && !seen[p] {
				seen[p] = true
				add(1, "policies", a.admit("policy", p))
				if late {
					add(1, "late_policies", "")
				}
			}
		}
	}
	if total == 0 && e.Metadata["total_tokens"] != "0" {
		total = prompt
	}
	if total > 0 {
		set := a.admit("usage_a_total:project:model", value("project")+"&"+value("model"))
		if set == "__other__" {
			set = "__other__&__other__"
		}
		add(total, "usage_a_total:project:model", set)
	}
	if e.Type == "dashboard_publish" {
		add(1, "usage_b_total:adapter", a.admit("usage_b_total:adapter", value("adapter")))
	}
	add(1, "usage_c_total", "")
}

var genDetailed = rapid.Custom(func(rt *rapid.T) sent {
	return sent{
		UserID: rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "user"),
		Type:   rapid.SampledFrom([]string{"sql_generation", "sql_execution", "dashboard_publish", "chat", "chat2"}).Draw(rt, "type"),
		Source: rapid.SampledFrom([]string{"", "s1", "s2", "s3", "unknown", "ü"}).Draw(rt, "source"),
		Metadata: rapid.MapOfN(
			rapid.SampledFrom([]string{"outcome", "model", "project", "adapter", "total_tokens", "prompt_tokens", "completion_tokens", "policy_filters", "rows", "x"}),
			rapid.SampledFrom([]string{"", "0", "7", "12", "-1", "7.0", "null", "9007199254740992", "9007199254740993", "success", "failure", "Success", "p1, p2 ,,p1", "p3,p4,p3", "a&b", "a%26b", "__other__"}), 0, 7).Draw(rt, "metadata"),
		CreatedAt: now.Add(-time.Duration(rapid.SampledFrom([]int{0, 3600, 3601, 90000}).Draw(rt, "age")) * time.Second),
	}
})

// However the events are cut into folds, and whether their days have expired or not, the totals are those of the naive
// count.
func TestLifetimeTotalsAgreeWithANaiveCount(t *testing.T) {
	limits := meter.Limits{EventTypes: 5, Sources: 2, Models: 3, Policies: 3, Metric: 3}
	rapid.Check(t, func(rt *rapid.T) {
		list := rapid.SliceOfN(genDetailed, 1, 40).Draw(rt, "events")
		a := &admission{
			limit:  map[string]int{"event_type": 5, "source": 2, "model": 3, "policy": 3, "usage_a_total:project:model": 3, "usage_b_total:adapter": 3},
			values: map[string][]string{"event_type": slices.Clone(event.KnownTypes)},
		}
		want := map[string]uint64{}
		for _, e := range list {
			naiveTotals(a, want, e)
		}
		labels := meter.NewLabels(limits)
		f := meter.NewFolder(metered, labels)
		totals := meter.Totals{}
		flush := func() {
			for s, n := range f.Delta().Totals {
				totals[s] += n
			}
			f.Reset(rapid.SampledFrom([]event.Day{0, 1 << 30}).Draw(rt, "oldest"))
		}
		views(t, list, func(v *event.View) {
			if f.Add(v, string(v.UserID)); rapid.IntRange(0, 3).Draw(rt, "cut") == 0 {
				flush()
			}
		})
		flush()
		got := map[string]uint64{}
		for s, n := range totals {
			if n > 0 {
				got[joined(s)] = n
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			rt.Fatalf("(-want +got)\n%s", diff)
		}
		countAgain(t, rt, list, labels, totals)
	})
}

func joined(s meter.Series) string {
	parts := []string{s.Family, s.A}
	if s.B != "" {
		parts = append(parts, s.B)
	}
	return strings.Join(parts, " ")
}

// countAgain folds the events from behind, with labels as they are read from a file, and expects the same totals.
func countAgain(t *testing.T, rt *rapid.T, list []sent, labels *meter.Labels, want meter.Totals) {
	data, err := json.Marshal(labels)
	if err != nil {
		rt.Fatal(err)
	}
	read := meter.NewLabels(meter.Limits{EventTypes: 5, Sources: 2, Models: 3, Policies: 3, Metric: 3})
	if err := json.Unmarshal(data, read); err != nil {
		rt.Fatal(err)
	}
	f := meter.NewFolder(metered, read)
	slices.Reverse(list)
	views(t, list, func(v *event.View) { f.Add(v, string(v.UserID)) })
	got := f.Delta().Totals
	maps.DeleteFunc(got, func(_ meter.Series, n uint64) bool { return n == 0 })
	maps.DeleteFunc(want, func(_ meter.Series, n uint64) bool { return n == 0 })
	if diff := cmp.Diff(want, got); diff != "" {
		rt.Fatalf("counted again from behind (-want +got)\n%s", diff)
	}
}

func TestDuplicatesAreInNoOtherTotal(t *testing.T) {
	f := meter.NewFolder(metered, meter.NewLabels(meter.Limits{}))
	list := []sent{{UserID: "a", Type: "sql_generation", Source: "s", CreatedAt: now.Add(-2 * time.Hour), Metadata: map[string]string{
		"outcome": "failure", "model": "m", "prompt_tokens": "1", "policy_filters": "p",
	}}}
	views(t, list, f.Duplicate)
	want := meter.Totals{{Family: meter.FamilyDuplicates, A: "sql_generation"}: 1}
	if diff := cmp.Diff(want, f.Delta().Totals); diff != "" {
		t.Error(diff)
	}
}

func TestOverflowIsCounted(t *testing.T) {
	f := meter.NewFolder(metered, meter.NewLabels(meter.Limits{EventTypes: 4, Sources: 1, Models: 1, Policies: 1, Metric: 1}))
	var list []sent
	for i := range 3 {
		list = append(list, sent{UserID: "a", Type: fmt.Sprintf("t%d", i), Source: fmt.Sprintf("s%d", i), CreatedAt: now, Metadata: map[string]string{
			"model": fmt.Sprintf("m%d", i), "prompt_tokens": "5",
		}}, sent{UserID: "a", Type: "sql_generation", CreatedAt: now, Metadata: map[string]string{"policy_filters": fmt.Sprintf("p%d,q,q", i)}})
	}
	views(t, list, func(v *event.View) { f.Add(v, string(v.UserID)) })
	want := map[string]uint64{
		meter.MetricEvents: 3, meter.MetricSources: 2, meter.MetricTokens: 2, meter.MetricPolicies: 5, "usage_a_total": 2,
	}
	if diff := cmp.Diff(want, f.Delta().Overflow); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// The totals of a label's values survive the loss of the values.
func TestLabelsAreLearntFromTotals(t *testing.T) {
	labels := meter.NewLabels(meter.Limits{Sources: 1, Metric: 1})
	labels.Learn(meter.Totals{
		{Family: meter.FamilySources, A: "a"}: 1, {Family: meter.FamilySources, A: "b"}: 1, {Family: meter.FamilySources, A: event.Other}: 1,
		{Family: "usage_b_total:adapter", A: "x"}: 1, {Family: meter.FamilyRows}: 1, {Family: meter.FamilyDuplicates, A: "t"}: 1,
	})
	for _, c := range []struct{ label, value, want string }{
		{meter.LabelSource, "a", "a"}, {meter.LabelSource, "b", "b"}, {meter.LabelSource, "c", event.Other},
		{"usage_b_total:adapter", "x", "x"}, {"usage_b_total:adapter", "y", event.Other}, {meter.LabelEventType, "t", "t"},
	} {
		if got := labels.Admit(c.label, []byte(c.value)); got != c.want {
			t.Errorf("%s %s: %s, want %s", c.label, c.value, got, c.want)
		}
	}
}

func TestMetricValuesAreReadBack(t *testing.T) {
	m := &meter.Metric{Name: "usage_a_total", Labels: []string{"project", "model"}}
	rapid.Check(t, func(rt *rapid.T) {
		value := rapid.StringN(1, 40, 256)
		project, model := value.Draw(rt, "project"), value.Draw(rt, "model")
		f := meter.NewFolder(metered, meter.NewLabels(meter.Limits{}))
		views(t, []sent{{UserID: "a", Type: "chat", CreatedAt: now, Metadata: map[string]string{"project": project, "model": model, "prompt_tokens": "1"}}},
			func(v *event.View) { f.Add(v, "a") })
		for s := range f.Delta().Totals {
			if s.Family == m.Family() {
				if diff := cmp.Diff([]string{event.Visible(project), event.Visible(model)}, m.Values(s.A)); diff != "" {
					rt.Fatal(diff)
				}
				return
			}
		}
		rt.Fatal("the metric was not counted")
	})
}
