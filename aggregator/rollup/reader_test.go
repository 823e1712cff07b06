package rollup_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"usaged/aggregator/event"
	"usaged/aggregator/meter"
	"usaged/aggregator/rollup"
	"usaged/aggregator/store"
	"usaged/aggregator/store/storetest"
)

var noon = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)

// counting is a store that counts how often cells are read.
type counting struct {
	*storetest.Memory
	sums atomic.Int64
}

func (c *counting) Sum(ctx context.Context, r meter.Rollup, days []event.Day, yield func([]byte, uint64)) error {
	c.sums.Add(1)
	return c.Memory.Sum(ctx, r, days, yield)
}

// filler applies cells to a store.
type filler struct {
	st     store.Store
	offset uint64
}

func (f *filler) add(t testing.TB, day event.Day, r meter.Rollup, cells meter.Cells) {
	t.Helper()
	d := &meter.DayDelta{Rollups: map[meter.Rollup]meter.Cells{r: cells}}
	if r.Type != "" {
		d.Types = map[string]uint64{r.Type: 0}
		for _, n := range cells {
			d.Types[r.Type] += n
		}
	}
	f.offset++
	out, err := f.st.Apply(t.Context(), &store.Batch{Producer: "p", Session: 1, Prev: f.offset - 1, Last: f.offset,
		Days: map[event.Day]*meter.DayDelta{day: d}})
	if err != nil || !out.Applied {
		t.Fatalf("apply: %+v, %v", out, err)
	}
}

func newReader(st store.Store) *rollup.Reader {
	return rollup.NewReader(rollup.Config{Store: st, Meters: meter.Builtin, Retention: 30, Now: func() time.Time { return noon }})
}

func TestSummaryFiltersAndOrders(t *testing.T) {
	st := storetest.NewMemory(1)
	f, today := &filler{st: st}, event.DayOf(noon)
	f.add(t, today, meter.TypeRollup("chat"), meter.Cells{"ann": 2, "bob": 5, "cy": 2})
	f.add(t, today-1, meter.TypeRollup("chat"), meter.Cells{"cy": 3, "dee": 1})
	f.add(t, today-6, meter.TypeRollup("sql_execution"), meter.Cells{"ann": 7})
	f.add(t, today-7, meter.TypeRollup("old"), meter.Cells{"ann": 7})
	f.add(t, today+1, meter.TypeRollup("ahead"), meter.Cells{"ann": 7}) // not part of a window that ends today
	r := newReader(st)
	for name, c := range map[string]struct {
		q    rollup.SummaryQuery
		days int
		want []rollup.TypeUsers
	}{
		"everything of a week": {days: 7, want: []rollup.TypeUsers{
			{Type: "chat", Users: []rollup.Total{{Key: "bob", N: 5}, {Key: "cy", N: 5}, {Key: "ann", N: 2}, {Key: "dee", N: 1}}},
			{Type: "sql_execution", Users: []rollup.Total{{Key: "ann", N: 7}}},
		}},
		"the busiest":       {days: 1, q: rollup.SummaryQuery{Top: 2}, want: []rollup.TypeUsers{{Type: "chat", Users: []rollup.Total{{Key: "bob", N: 5}, {Key: "ann", N: 2}}}}},
		"one type":          {days: 30, q: rollup.SummaryQuery{EventType: "old"}, want: []rollup.TypeUsers{{Type: "old", Users: []rollup.Total{{Key: "ann", N: 7}}}}},
		"one user":          {days: 7, q: rollup.SummaryQuery{UserID: "dee"}, want: []rollup.TypeUsers{{Type: "chat", Users: []rollup.Total{{Key: "dee", N: 1}}}}},
		"a type that isn't": {days: 7, q: rollup.SummaryQuery{EventType: "x"}},
		"a user that isn't": {days: 7, q: rollup.SummaryQuery{UserID: "x"}},
	} {
		for range 2 { // cold and warm
			got, err := r.Summary(t.Context(), r.Window(c.days), c.q)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("%s: %s", name, diff)
			}
		}
	}
}

// meterNamed returns the meter with a name.
func meterNamed(list []meter.Meter, name string) *meter.Meter {
	return &list[slices.IndexFunc(list, func(m meter.Meter) bool { return m.Name == name })]
}

func TestMeterAnswersInBothDimensions(t *testing.T) {
	st := storetest.NewMemory(1)
	f, today := &filler{st: st}, event.DayOf(noon)
	f.add(t, today, meter.TypeRollup("sql_generation"), meter.Cells{"ann": 2})
	f.add(t, today-1, meter.TypeRollup("sql_execution"), meter.Cells{"ann": 1, "bob": 1})
	f.add(t, today-1, meter.TypeRollup("chat"), meter.Cells{"cy": 4})
	f.add(t, today, meter.MeterRollup("queries", meter.ByReference), meter.Cells{"how many?": 3})
	f.add(t, today, meter.MeterRollup("llm-tokens", meter.ByUser), meter.Cells{"cy": 0})
	r := newReader(st)
	for _, c := range []struct {
		name string
		dim  meter.Dim
		want []rollup.Total
	}{
		{"users", meter.ByUser, []rollup.Total{{Key: "cy", N: 4}, {Key: "ann", N: 3}, {Key: "bob", N: 1}}},
		{"queries", meter.ByUser, []rollup.Total{{Key: "ann", N: 3}, {Key: "bob", N: 1}}},
		{"queries", meter.ByReference, []rollup.Total{{Key: "how many?", N: 3}}},
		{"llm-tokens", meter.ByUser, []rollup.Total{{Key: "cy", N: 0}}},
		{"dashboards", meter.ByReference, []rollup.Total{}},
	} {
		got, err := r.Meter(t.Context(), r.Window(7), meterNamed(r.Meters(), c.name), c.dim, 0)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s by %s: %s", c.name, c.dim, diff)
		}
	}
	if _, err := r.Meter(t.Context(), r.Window(7), meterNamed(r.Meters(), "users"), meter.ByReference, 0); !errors.Is(err, rollup.ErrNoReference) {
		t.Errorf("meter without reference: %v", err)
	}
}

// Days add up to what the meter itself answers by user, from the cache and before it is warm.
func TestDaysOfMetersAddUp(t *testing.T) {
	st := storetest.NewMemory(1)
	f, today := &filler{st: st}, event.DayOf(noon)
	rooms := meter.Meter{Name: "rooms", Reference: "room", Value: "minutes"}
	r := rollup.NewReader(rollup.Config{
		Store: st, Meters: func() []meter.Meter { return append(meter.Builtin(), rooms) }, Retention: 30, Now: func() time.Time { return noon },
	})
	for day := range event.Day(20) {
		f.add(t, today-day, meter.TypeRollup("sql_generation"), meter.Cells{"ann": uint64(day), "bob": 1})
		if day%3 > 0 {
			f.add(t, today-day, meter.TypeRollup("chat"), meter.Cells{"ann": 7})
			f.add(t, today-day, meter.MeterRollup(rooms.Key(), meter.ByUser), meter.Cells{"ann": uint64(10 * day), "cy": 2})
		}
	}
	f.add(t, today-3, meter.MeterRollup(rooms.Key(), meter.ByUser), meter.Cells{"ann": 0})
	w := r.Window(25)
	for _, when := range []string{"cold", "warm"} {
		list, err := r.DailyMeters(t.Context(), w, r.Meters())
		if err != nil || len(list) != 25 || list[0].Day != w.From {
			t.Fatalf("%s: %d days, %v", when, len(list), err)
		}
		sums := map[string]uint64{}
		for i, day := range list {
			for name, n := range day.Totals {
				sums[name] += n
			}
			_, has := day.Totals["rooms"]
			if back := 24 - i; has != (back < 20 && back%3 > 0 || back == 3) {
				t.Errorf("%s: %d days back: %v", when, back, day.Totals)
			}
		}
		for _, m := range r.Meters() {
			users, err := r.Meter(t.Context(), w, &m, meter.ByUser, 0)
			if err != nil {
				t.Fatal(err)
			}
			want := uint64(0)
			for _, user := range users {
				want += user.N
			}
			if sums[m.Name] != want {
				t.Errorf("%s: the days of %s add up to %d, want %d", when, m.Name, sums[m.Name], want)
			}
		}
		if sums["rooms"] == 0 || sums["users"] == 0 || sums["users"] == sums["queries"] {
			t.Errorf("%s: %v tells nothing", when, sums)
		}
		if err := r.WarmOnce(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAClosedDayIsReadOnceAndALateEventShows(t *testing.T) {
	st := &counting{Memory: storetest.NewMemory(1)}
	f, today := &filler{st: st}, event.DayOf(noon)
	for day := today - 9; day <= today; day++ {
		f.add(t, day, meter.TypeRollup("chat"), meter.Cells{"ann": 1})
	}
	r := newReader(st)
	if err := r.WarmOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	read := func(want uint64, sums int64) {
		t.Helper()
		before := st.sums.Load()
		got, err := r.Summary(t.Context(), r.Window(10), rollup.SummaryQuery{})
		if err != nil || len(got) != 1 || got[0].Users[0].N != want {
			t.Fatalf("summary = %v, %v, want %d", got, err, want)
		}
		if n := st.sums.Load() - before; n != sums {
			t.Errorf("the store was read %d times, want %d", n, sums)
		}
	}
	v := func() string {
		version, err := r.Version(t.Context(), r.Window(10))
		if err != nil {
			t.Fatal(err)
		}
		return version
	}
	before := v()
	read(10, 0)
	if v() != before {
		t.Error("the version changed without an event")
	}
	f.add(t, today-5, meter.TypeRollup("chat"), meter.Cells{"ann": 1})
	if v() == before {
		t.Error("the version did not change with a late event")
	}
	read(11, 1)
}

// A reader that has nothing yet lets the store add up, and warms itself for the next time.
func TestColdAnswersAreRightAndWarmTheCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := &counting{Memory: storetest.NewMemory(1)}
		f, today := &filler{st: st}, event.DayOf(noon)
		for day := today - 9; day <= today; day++ {
			f.add(t, day, meter.TypeRollup("chat"), meter.Cells{"ann": 1})
			f.add(t, day, meter.TypeRollup("sql_execution"), meter.Cells{"bob": 2})
		}
		r := newReader(st)
		read := func() (sums int64) {
			t.Helper()
			before := st.sums.Load()
			got, err := r.Summary(t.Context(), r.Window(10), rollup.SummaryQuery{})
			if err != nil || len(got) != 2 || got[0].Users[0].N != 10 || got[1].Users[0].N != 20 {
				t.Fatalf("summary = %v, %v", got, err)
			}
			return st.sums.Load() - before
		}
		if n := read(); n != 2 {
			t.Errorf("a cold answer took %d reads, want one per type", n)
		}
		go r.Warm(t.Context())
		synctest.Wait()
		if n := read(); n != 0 {
			t.Errorf("a warm answer took %d reads", n)
		}
		for day := today - 9; day <= today; day++ { // a late import changes every day
			f.add(t, day, meter.TypeRollup("chat"), meter.Cells{"ann": 0})
		}
		read() // and Warm begins beside it
		synctest.Wait()
		if n := read(); n != 0 {
			t.Errorf("an answer after that took %d reads", n)
		}
	})
}

func TestReaderAgreesWithTheStoreWhateverIsCached(t *testing.T) {
	st := storetest.NewMemory(1)
	f, today := &filler{st: st}, event.DayOf(noon)
	r := newReader(st)
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		day := today - event.Day(rnd.IntN(12))
		f.add(t, day, meter.TypeRollup(fmt.Sprint("type", rnd.IntN(3))), meter.Cells{fmt.Sprint("user", rnd.IntN(20)): rnd.Uint64N(3)})
		w := r.Window(1 + rnd.IntN(10))
		got, err := r.Summary(t.Context(), w, rollup.SummaryQuery{})
		if err != nil {
			t.Fatal(err)
		}
		var lines, want []string
		for _, tu := range got {
			for _, u := range tu.Users {
				lines = append(lines, fmt.Sprint(tu.Type, u))
			}
		}
		for i := range 3 {
			typ := fmt.Sprint("type", i)
			list := []rollup.Total{}
			if err := st.Sum(t.Context(), meter.TypeRollup(typ), w.Days(), func(key []byte, n uint64) {
				list = append(list, rollup.Total{Key: string(key), N: n})
			}); err != nil {
				t.Fatal(err)
			}
			for _, u := range rollup.Busiest(list, 0) {
				want = append(want, fmt.Sprint(typ, u))
			}
		}
		if diff := cmp.Diff(want, lines); diff != "" {
			t.Fatalf("window %v: %s", w, diff)
		}
	}
}

// BenchmarkMeter reads 10,000 references that occur on each of 30 days.
func BenchmarkMeter(b *testing.B) {
	st := storetest.NewMemory(1)
	f, today := &filler{st: st}, event.DayOf(noon)
	for day := range event.Day(30) {
		cells := meter.Cells{}
		for i := range 10_000 {
			cells[fmt.Sprintf("what is the revenue of region %05d?", i)] = uint64(i%7 + 1)
		}
		f.add(b, today-day, meter.MeterRollup("queries", meter.ByReference), cells)
	}
	r := newReader(st)
	if err := r.WarmOnce(b.Context()); err != nil {
		b.Fatal(err)
	}
	queries := meterNamed(r.Meters(), "queries")
	b.ReportAllocs()
	for b.Loop() {
		got, err := r.Meter(b.Context(), r.Window(30), queries, meter.ByReference, 0)
		if err != nil || len(got) != 10_000 {
			b.Fatal(len(got), err)
		}
	}
}

// busyMonth gives each of 30 days five types with 10,000 users.
func busyMonth(b *testing.B) store.Store {
	st := storetest.NewMemory(1)
	f, today := &filler{st: st}, event.DayOf(noon)
	for day := range event.Day(30) {
		for typ := range 5 {
			cells := meter.Cells{}
			for user := range 10_000 {
				cells[fmt.Sprintf("user-%05d", user)] = uint64(user%7 + 1)
			}
			f.add(b, today-day, meter.TypeRollup(strings.Repeat("t", typ+1)), cells)
		}
	}
	return st
}

func BenchmarkSummary(b *testing.B) {
	r := newReader(busyMonth(b))
	if err := r.WarmOnce(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		got, err := r.Summary(b.Context(), r.Window(30), rollup.SummaryQuery{})
		if err != nil || len(got) != 5 || len(got[0].Users) != 10_000 {
			b.Fatal(len(got), err)
		}
	}
}
