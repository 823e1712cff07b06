package meter_test

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"usaged/aggregator/event"
	"usaged/aggregator/meter"
)

var now = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)

// sent is an event as a client sends it.
type sent struct {
	UserID    string            `json:"user_id"`
	Type      string            `json:"event_type"`
	Metadata  map[string]string `json:"metadata,omitempty"`
	CreatedAt time.Time         `json:"created_at"`
	Source    string            `json:"source,omitempty"`
}

// views encodes events and calls f with each.
func views(t testing.TB, list []sent, f func(*event.View)) {
	t.Helper()
	body, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	batch, err := event.NewDecoder().Decode(body, event.JSON, event.Origin{Token: "t", User: "t", AcceptedAt: now, Oldest: event.DayOf(now) - 1000})
	if err != nil {
		t.Fatal(err)
	}
	for rest := batch.Entries; len(rest) > 0; {
		n, w := binary.Uvarint(rest)
		var v event.View
		if err := event.Parse(rest[w:w+int(n)], &v); err != nil {
			t.Fatal(err)
		}
		f(&v)
		rest = rest[w+int(n):]
	}
}

func fold(t testing.TB, meters []meter.Meter, oldest event.Day, list []sent) (meter.Delta, meter.Stats) {
	f := folded(t, meters, oldest, list)
	return f.Delta(), f.Stats()
}

func folded(t testing.TB, meters []meter.Meter, oldest event.Day, list []sent) *meter.Folder {
	f := meter.NewFolder(meters, meter.NewLabels(meter.Limits{}))
	f.Reset(oldest)
	views(t, list, func(v *event.View) { f.Add(v, string(v.UserID)) })
	return f
}

func TestBuiltinMetersReadWhatTheyPromise(t *testing.T) {
	day := event.DayOf(now)
	md := func(pairs ...string) map[string]string {
		m := map[string]string{}
		for i := 0; i < len(pairs); i += 2 {
			m[pairs[i]] = pairs[i+1]
		}
		return m
	}
	long := strings.Repeat("é", 200)
	delta, stats := fold(t, meter.Builtin(), day-29, []sent{
		{"ann", "sql_generation", md("question", "how many?"), now, ""},
		{"bob", "sql_execution", md("question", "how many?", "rows", "3"), now, ""},
		{"bob", "sql_execution", nil, now, ""},
		{"ann", "dashboard_publish", md("dashboard_id", "d1", "question", "not asked"), now, ""},
		{"ann", "chat", md("model", "m1", "prompt_tokens", "10", "completion_tokens", "5"), now, ""},
		{"ann", "chat", md("model", "m1", "prompt_tokens", "10", "completion_tokens", "5", "total_tokens", "7"), now, ""},
		{"bob", "chat", md("total_tokens", "1"), now, ""},
		{"bob", "chat", md("model", "m1"), now, ""},
		{"bob", "chat", md("model", "m2", "total_tokens", "-1"), now, ""},
		{"bob", "chat", md("model", "m2", "total_tokens", "9007199254740993"), now, ""},
		{"bob", "chat", md("model", "m2", "prompt_tokens", "1e3", "completion_tokens", "9007199254740992"), now, ""},
		{"cy", "sql_generation", md("question", long), now.AddDate(0, 0, -1), ""},
		{"cy", "old", nil, now.AddDate(0, 0, -30), ""},
	})
	want := meter.Delta{
		Days: map[event.Day]*meter.DayDelta{
			day: {
				Types: map[string]uint64{"sql_generation": 1, "sql_execution": 2, "dashboard_publish": 1, "chat": 7},
				Rollups: map[meter.Rollup]meter.Cells{
					meter.TypeRollup("sql_generation"):                 {"ann": 1},
					meter.TypeRollup("sql_execution"):                  {"bob": 2},
					meter.TypeRollup("dashboard_publish"):              {"ann": 1},
					meter.TypeRollup("chat"):                           {"ann": 2, "bob": 5},
					meter.MeterRollup("queries", meter.ByReference):    {"how many?": 2},
					meter.MeterRollup("dashboards", meter.ByReference): {"d1": 1},
					meter.MeterRollup("llm-tokens", meter.ByUser):      {"ann": 30, "bob": 1001},
					meter.MeterRollup("llm-tokens", meter.ByReference): {"m1": 30, "m2": 1000},
				},
			},
			day - 1: {
				Types: map[string]uint64{"sql_generation": 1},
				Rollups: map[meter.Rollup]meter.Cells{
					meter.TypeRollup("sql_generation"):              {"cy": 1},
					meter.MeterRollup("queries", meter.ByReference): {strings.Repeat("é", 128): 1},
				},
			},
		},
	}
	if diff := cmp.Diff(want, delta, cmpopts.IgnoreFields(meter.DayDelta{}, "TypeOrder", "KeyOrder", "Reserved"), cmpopts.IgnoreFields(meter.Delta{}, "Totals", "Overflow")); diff != "" {
		t.Error(diff)
	}
	if want := (meter.Stats{Events: 13, BadValues: 3, Expired: 1}); stats != want {
		t.Errorf("stats = %+v, want %+v", stats, want)
	}
}

func TestOrderIsThatOfFirstAppearance(t *testing.T) {
	var list []sent
	for _, q := range []string{"b", "a", "c", "a"} {
		list = append(list, sent{"u", "sql_generation", map[string]string{"question": q}, now, ""}, sent{"u", q, nil, now, ""})
	}
	delta, _ := fold(t, meter.Builtin(), 0, list)
	day := delta.Days[event.DayOf(now)]
	if diff := cmp.Diff([]string{"sql_generation", "b", "a", "c"}, day.OrderedTypes()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"b", "a", "c"}, day.OrderedKeys(meter.MeterRollup("queries", meter.ByReference))); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"u"}, day.OrderedKeys(meter.TypeRollup("a"))); diff != "" {
		t.Error(diff)
	}
}

func TestReferenceIsCutAtARune(t *testing.T) {
	ref := "x" + strings.Repeat("é", 200) // 256 falls into the middle of a rune
	delta, _ := fold(t, meter.Builtin(), 0, []sent{{"a", "sql_generation", map[string]string{"question": ref}, now, ""}})
	for key := range delta.Days[event.DayOf(now)].Rollups[meter.MeterRollup("queries", meter.ByReference)] {
		if want := "x" + strings.Repeat("é", 127); key != want {
			t.Errorf("reference has %d bytes, want %d", len(key), len(want))
		}
	}
}

// naive counts like the documentation, without any of the folder's short cuts.
func naive(meters []meter.Meter, list []sent) map[string]uint64 {
	sums := map[string]uint64{}
	number := func(s string) uint64 {
		n, ok := new(big.Rat).SetString(s)
		if !ok || !n.IsInt() || n.Sign() < 0 || n.Num().Cmp(big.NewInt(1_000_000_000)) > 0 {
			return 0
		}
		return n.Num().Uint64()
	}
	for _, e := range list {
		day := event.DayOf(e.CreatedAt)
		sums[fmt.Sprintf("%s type %s %s", day, e.Type, e.UserID)]++
		for _, m := range meters {
			reads := len(m.Events) == 0
			for _, typ := range m.Events {
				reads = reads || typ == e.Type
			}
			n := uint64(1)
			if m.Value != "" || len(m.Sum) > 0 {
				v, has := e.Metadata[m.Value]
				n = number(v)
				if n == 0 && v != "0" || m.Name == "llm-tokens" {
					sum := uint64(0)
					for _, key := range m.Sum {
						v, ok := e.Metadata[key]
						sum, has = sum+number(v), has || ok
					}
					n = max(n, sum)
				}
				reads = reads && has
				if reads {
					sums[fmt.Sprintf("%s meter %s user %s", day, m.Name, e.UserID)] += n
				}
			}
			if ref := e.Metadata[m.Reference]; reads && ref != "" {
				sums[fmt.Sprintf("%s meter %s ref %s", day, m.Name, ref)] += n
			}
		}
	}
	return sums
}

func flatten(delta meter.Delta) map[string]uint64 {
	sums := map[string]uint64{}
	for day, d := range delta.Days {
		for r, cells := range d.Rollups {
			for key, n := range cells {
				if r.Type != "" {
					sums[fmt.Sprintf("%s type %s %s", day, r.Type, key)] = n
				} else {
					name, _, _ := strings.Cut(r.Meter, "@")
					sums[fmt.Sprintf("%s meter %s %s %s", day, name, r.Dim, key)] = n
				}
			}
		}
	}
	return sums
}

func TestFoldAgreesWithANaiveCount(t *testing.T) {
	meters := append(meter.Builtin(), meter.Meter{Name: "rows", Events: []string{"sql_execution"}, Value: "rows", Sum: []string{"total_tokens", "x"}, Reference: "db"})
	rapid.Check(t, func(rt *rapid.T) {
		list := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) sent {
			return sent{
				UserID: rapid.SampledFrom([]string{"a", "b", "ü{x}"}).Draw(rt, "user"),
				Type:   rapid.SampledFrom([]string{"sql_generation", "sql_execution", "dashboard_publish", "chat"}).Draw(rt, "type"),
				Metadata: rapid.MapOfN(
					rapid.SampledFrom([]string{"question", "dashboard_id", "model", "rows", "db", "total_tokens", "prompt_tokens", "completion_tokens", "x"}),
					rapid.SampledFrom([]string{"", "0", "7", "12", "-1", "1.5", "12.0", "1.2e2", "null", "9007199254740992", "9007199254740993", "x"}), 0, 5).Draw(rt, "metadata"),
				CreatedAt: now.AddDate(0, 0, -rapid.IntRange(0, 3).Draw(rt, "age")),
			}
		}), 1, 20).Draw(rt, "events")
		f := folded(t, meters, 0, list)
		delta, stats := f.Delta(), f.Stats()
		want := naive(meters, list)
		for k, n := range want {
			want[k] = min(n, meter.MaxTotal)
		}
		if diff := cmp.Diff(want, flatten(delta)); diff != "" {
			rt.Fatal(diff)
		}
		if f.Cells() != len(want) || stats.Events != uint64(len(list)) {
			rt.Fatalf("%d cells of %d, %d events of %d", f.Cells(), len(want), stats.Events, len(list))
		}
	})
}

func TestRollupsOfACountAreItsTypes(t *testing.T) {
	types := []string{"chat", "sql_execution", "sql_generation"}
	for _, m := range meter.Builtin() {
		var want []meter.Rollup
		switch m.Name {
		case "users":
			want = []meter.Rollup{{Type: "chat"}, {Type: "sql_execution"}, {Type: "sql_generation"}}
		case "queries":
			want = []meter.Rollup{{Type: "sql_execution"}, {Type: "sql_generation"}}
		case "llm-tokens":
			want = []meter.Rollup{{Meter: "llm-tokens", Dim: meter.ByUser}}
		}
		if diff := cmp.Diff(want, m.Rollups(meter.ByUser, types)); diff != "" {
			t.Errorf("%s by user: %s", m.Name, diff)
		}
	}
}

func BenchmarkFold(b *testing.B) {
	types := []string{"sql_generation", "sql_execution", "dashboard_publish", "spreadsheet_formula", "chat"}
	for name, metadata := range map[string]map[string]string{
		"plain":    nil,
		"metadata": {"outcome": "success", "rows": "3"},
		"tokens":   {"model": "m1", "prompt_tokens": "100", "completion_tokens": "20", "total_tokens": "125"},
	} {
		var list []sent
		for i := range 10_000 {
			list = append(list, sent{UserID: fmt.Sprintf("user-%05d", i*7919%10_000), Type: types[i%5], Metadata: metadata, CreatedAt: now})
		}
		b.Run(name, func(b *testing.B) { benchmarkFold(b, list) })
	}
}

func benchmarkFold(b *testing.B, list []sent) {
	b.ReportAllocs()
	var vs []event.View
	var names []string
	views(b, list, func(v *event.View) { vs, names = append(vs, *v), append(names, string(v.UserID)) })
	f := meter.NewFolder(meter.Builtin(), meter.NewLabels(meter.Limits{}))
	for b.Loop() {
		f.Reset(0)
		for range 5 {
			for i := range vs {
				f.Add(&vs[i], names[i])
			}
		}
		_ = f.Delta()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*5*len(vs)), "ns/event")
}

// BenchmarkFoldLate folds late events that were accepted one by one, over many days and types, and asks for the cells after
// each, as the applier does after each record.
func BenchmarkFoldLate(b *testing.B) {
	const days, types = 30, 1_000
	var list []sent
	for i := range 9_000 {
		list = append(list, sent{UserID: fmt.Sprintf("user-%d", i%50), Type: fmt.Sprintf("type-%d", i*7%types), CreatedAt: now.AddDate(0, 0, -(i % days))})
	}
	var events []event.View
	views(b, list, func(v *event.View) { events = append(events, *v) })
	f := meter.NewFolder(meter.Builtin(), meter.NewLabels(meter.Limits{}))
	b.ReportAllocs()
	for b.Loop() {
		f.Reset(event.DayOf(now) - days)
		cells := 0
		for i := range events {
			f.Add(&events[i], "user")
			cells = f.Cells()
		}
		if cells == 0 {
			b.Fatal("nothing was folded")
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(events)), "ns/event")
}
