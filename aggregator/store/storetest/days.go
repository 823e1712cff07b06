package storetest

import (
	"maps"
	"time"

	"usaged/aggregator/event"
	"usaged/aggregator/meter"
	"usaged/aggregator/store"
)

var versionPromises = []promise{
	{"has none for a day that holds nothing", func(f *fixture) {
		f.mustApply(f.batch(0, 1))
		f.mustApply(f.fullBatch(1, 2, 1))
		got := f.versions(f.today-1, f.today, f.today+1)
		if got[0] != "" || got[1] == "" || got[2] != "" {
			f.Errorf("versions = %q, want one in the middle", got)
		}
		if got := f.versions(); len(got) != 0 {
			f.Errorf("versions of no days = %q", got)
		}
	}},
	{"changes the version of each day that a batch touches, and of no other", testVersionsPerDay},
	{"never uses a version again", func(f *fixture) {
		seen := make(map[string]bool)
		for i := range uint64(50) {
			f.mustApply(f.fullBatch(i, i+1, byte(i)))
			v := f.versions(f.today)[0]
			if seen[v] {
				f.Fatalf("version %q came back", v)
			}
			seen[v] = true
		}
	}},
	{"has other versions in a store that was rebuilt", func(f *fixture) {
		f.mustApply(f.fullBatch(0, 1, 1))
		before := f.versions(f.today)[0]
		again := f.suite.newFixture(f.T, f.partitions)
		again.mustApply(f.fullBatch(0, 1, 1))
		if got := again.versions(f.today)[0]; got == before {
			f.Errorf("version = %q in both", got)
		}
	}},
	{"changes the version for a batch in any partition", func(f *fixture) {
		last := ""
		for p := range f.partitions {
			b := f.fullBatch(0, 1, 1)
			b.Partition = p
			f.mustApply(b)
			if v := f.versions(f.today)[0]; v == last {
				f.Fatalf("version %q didn't change with a batch in partition %d", v, p)
			} else {
				last = v
			}
		}
	}},
	{"changes the version for cells that are 0", func(f *fixture) {
		for i := range uint64(2) {
			before := f.versions(f.today)[0]
			b := f.batch(i, i+1)
			cell(b, f.today, meter.MeterRollup("tokens", meter.ByUser), f.user(), 0)
			f.mustApply(b)
			if v := f.versions(f.today)[0]; v == before {
				f.Fatalf("version = %q before and after", v)
			}
		}
	}},
}

func testVersionsPerDay(f *fixture) {
	days := []event.Day{f.today - 3, f.today - 2, f.today - 1, f.today}
	for i := range uint64(20) {
		before := f.versions(days...)
		b := f.batch(i, i+1)
		for bit, day := range days {
			if i>>bit&1 == 1 {
				events(b, day, "t", f.user(), 1)
			}
		}
		f.mustApply(b)
		for bit, v := range f.versions(days...) {
			if touched := i>>bit&1 == 1; touched != (v != before[bit]) {
				f.Fatalf("batch %d: version of day %v was %q, is %q; touched: %t", i, days[bit], before[bit], v, touched)
			}
		}
	}
}

var typesPromises = []promise{
	{"has an empty map for a day that holds nothing", func(f *fixture) {
		for _, m := range f.types(f.today, f.today-1) {
			if m == nil || len(m) != 0 {
				f.Errorf("types = %v, want an empty map", m)
			}
		}
		if got := f.types(); len(got) != 0 {
			f.Errorf("types of no days = %v", got)
		}
	}},
	{"adds up events per type and day, in the order asked for", func(f *fixture) {
		b := f.batch(0, 1)
		events(b, f.today, "a", f.user(), 2)
		events(b, f.today, "b", f.user(), 3)
		events(b, f.today-1, "a", f.user(), 5)
		f.mustApply(b)
		b.Prev, b.Last = 1, 2
		f.mustApply(b)
		got := f.types(f.today, f.today-1, f.today-2, f.today)
		want := []map[string]uint64{{"a": 4, "b": 6}, {"a": 10}, {}, {"a": 4, "b": 6}}
		for i := range want {
			if !maps.Equal(got[i], want[i]) {
				f.Errorf("types[%d] = %v, want %v", i, got[i], want[i])
			}
		}
	}},
	{"adds up over partitions and producers", func(f *fixture) {
		for p := range f.partitions {
			for _, id := range []string{"p", "q"} {
				b := f.batch(0, 1)
				b.Producer, b.Partition = id, p
				events(b, f.today, "a", f.users(p, 1)[0], uint64(p+1))
				f.mustApply(b)
			}
		}
		n := uint64(f.partitions)
		f.wantTypes(map[string]uint64{"a": n * (n + 1)}, f.today)
	}},
	{"keeps counts of up to 2^53 exact", func(f *fixture) {
		for i, n := range []uint64{1<<53 - 2, 1, 1} {
			b := f.batch(uint64(i), uint64(i+1))
			events(b, f.today, "a", f.user(), n)
			f.mustApply(b)
		}
		f.wantTypes(map[string]uint64{"a": 1 << 53}, f.today)
		f.wantSum(meter.Cells{f.user(): 1 << 53}, meter.TypeRollup("a"), f.today)
	}},
}

var sumPromises = []promise{
	{"yields nothing for what isn't there", func(f *fixture) {
		f.mustApply(f.fullBatch(0, 1, 1))
		f.wantSum(nil, meter.TypeRollup("t"))
		f.wantSum(nil, meter.TypeRollup("t"), f.today-1)
		f.wantSum(nil, meter.TypeRollup("T"), f.today)
		f.wantSum(nil, meter.MeterRollup("t", meter.ByUser), f.today)
		f.wantSum(nil, meter.MeterRollup("t", meter.ByReference), f.today)
	}},
	{"adds up over days, partitions, producers and batches", testSumAddsUp},
	{"keeps a cell that would exceed meter.MaxTotal there", func(f *fixture) {
		for i, n := range []uint64{meter.MaxTotal - 5, 9, meter.MaxTotal} {
			b := f.batch(uint64(i), uint64(i+1))
			events(b, f.today, "t", f.user(), n)
			cell(b, f.today, references, "r", n)
			cell(b, f.today, references, "s", 1)
			f.mustApply(b)
		}
		f.wantSum(meter.Cells{f.user(): meter.MaxTotal}, meter.TypeRollup("t"), f.today)
		f.wantSum(meter.Cells{"r": meter.MaxTotal, "s": 3}, references, f.today)
	}},
	{"keeps cells that are 0", func(f *fixture) {
		r := meter.MeterRollup("tokens", meter.ByReference)
		b := f.batch(0, 1)
		cell(b, f.today, r, "zero", 0)
		cell(b, f.today-1, r, "zero", 0)
		cell(b, f.today, r, "three", 3)
		f.mustApply(b)
		f.wantSum(meter.Cells{"zero": 0, "three": 3}, r, f.today)
		f.wantSum(meter.Cells{"zero": 0}, r, f.today-1)
		f.wantSum(meter.Cells{"zero": 0, "three": 3}, r, f.today, f.today-1)
		c := f.batch(1, 2)
		cell(c, f.today, r, "three", 0)
		cell(c, f.today, r, "zero", 2)
		f.mustApply(c)
		f.wantSum(meter.Cells{"zero": 2, "three": 3}, r, f.today, f.today-1)
	}},
	{"tells the rollups of a day apart", func(f *fixture) {
		b, want := f.batch(0, 1), make(map[meter.Rollup]uint64)
		names := []string{"a", "b", "user", "ref", "types", "version", "a:user", "a:ref", "meter:a:user", "type:a", "a-b", "a@1f"}
		for i, name := range names {
			byUser, byReference := meter.MeterRollup(name, meter.ByUser), meter.MeterRollup(name, meter.ByReference)
			for j, r := range []meter.Rollup{meter.TypeRollup(name), byUser, byReference} {
				want[r] = uint64(10*i + j)
				cell(b, f.today, r, "key", want[r])
			}
			delta(b, f.today).Types[name] = uint64(10 * i)
		}
		f.mustApply(b)
		for r, n := range want {
			f.wantSum(meter.Cells{"key": n}, r, f.today)
		}
	}},
	{"adds up a long window of many users", func(f *fixture) {
		want := make(meter.Cells)
		var window []event.Day
		users := f.users(f.partition(), 500)
		for i := range 40 {
			day := f.today - event.Day(i)
			window = append(window, day)
			b := f.batch(uint64(i), uint64(i+1))
			for j, user := range users[i:] {
				events(b, day, "t", user, uint64(j))
				want.Add(user, uint64(j))
			}
			f.mustApply(b)
		}
		f.wantSum(want, meter.TypeRollup("t"), window...)
	}},
}

func testSumAddsUp(f *fixture) {
	days := []event.Day{f.today - 20, f.today - 1, f.today}
	r := meter.MeterRollup("queries", meter.ByReference)
	wantUsers, wantRefs := make(meter.Cells), make(meter.Cells)
	for p := range f.partitions {
		for i, id := range []string{"p", "q"} {
			for n := range uint64(3) {
				b := f.batch(n, n+1)
				b.Producer, b.Partition = id, p
				for d, day := range days {
					user, total := f.users(p, 3)[n], uint64(100*d)+10*n+uint64(i)
					events(b, day, "t", user, total)
					cell(b, day, r, "the same everywhere", total)
					wantUsers.Add(user, total)
					wantRefs.Add("the same everywhere", total)
				}
				f.mustApply(b)
			}
		}
	}
	f.wantSum(wantUsers, meter.TypeRollup("t"), days...)
	f.wantSum(wantRefs, r, days...)
	first, rest := f.sum(r, days[0])["the same everywhere"], f.sum(r, days[1:]...)["the same everywhere"]
	if first+rest != wantRefs["the same everywhere"] {
		f.Errorf("%d on the first day and %d on the others, want %d in all", first, rest, wantRefs["the same everywhere"])
	}
}

var expirePromises = []promise{
	{"keeps the oldest day that it was told to keep, and later ones", func(f *fixture) {
		for i := range uint64(5) {
			b := f.batch(i, i+1)
			events(b, f.today-event.Day(i), "t", f.user(), 1)
			f.mustApply(b)
		}
		days := []event.Day{f.today, f.today - 1, f.today - 2}
		before := f.versions(days...)
		f.expire(f.today-2, f.now)
		for i, v := range f.versions(days...) {
			if v != before[i] {
				f.Errorf("version of %v was %q, is %q", days[i], before[i], v)
			}
			f.wantSum(meter.Cells{f.user(): 1}, meter.TypeRollup("t"), days[i])
			f.wantTypes(map[string]uint64{"t": 1}, days[i])
		}
	}},
	{"keeps offsets and lifetime totals", func(f *fixture) {
		f.mustApply(f.fullBatch(0, 10, 7))
		before := f.allProducers()
		f.expire(f.today+1, f.now.Add(100*24*time.Hour))
		after := f.allProducers()
		if len(after) != 1 || after[0].Offset != before[0].Offset || !maps.Equal(after[0].Totals, before[0].Totals) {
			f.Errorf("Producers = %+v, want %+v", after, before)
		}
		f.wantMismatch(f.fullBatch(0, 10, 7), 10)
	}},
	{"keeps claims for ClaimLifetime", func(f *fixture) {
		at := f.now.Add(-store.ClaimLifetime + time.Hour)
		f.mustApply(f.claiming(0, claim(1, at), claim(2, at.Add(time.Hour)), claim(3, f.now)))
		f.expire(f.today-100, at.Add(store.ClaimLifetime))
		f.wantTaken(f.claiming(1, claim(1, at), claim(2, at), claim(3, f.now)), 0, 1, 2)
	}},
	{"does nothing to an empty store", func(f *fixture) {
		f.expire(f.today, f.now)
		f.expire(f.today, f.now)
	}},
}

// removalPromises hold for stores that don't expire by themselves.
var removalPromises = []promise{
	{"removes the days before the oldest in one piece", func(f *fixture) {
		for p := range f.partitions {
			b := f.batch(0, 1)
			b.Partition = p
			for i := range event.Day(5) {
				events(b, f.today-i, "t", f.users(p, 1)[0], 1)
				cell(b, f.today-i, references, "r", 1)
			}
			f.mustApply(b)
		}
		f.expire(f.today-2, f.now)
		gone := []event.Day{f.today - 3, f.today - 4}
		for i, v := range f.versions(gone...) {
			if v != "" {
				f.Errorf("version of %v = %q, want none", gone[i], v)
			}
			f.wantTypes(nil, gone[i])
		}
		f.wantSum(nil, meter.TypeRollup("t"), gone...)
		f.wantSum(nil, references, gone...)
		f.wantSum(meter.Cells{"r": uint64(3 * f.partitions)}, references, f.today, f.today-1, f.today-2, f.today-3, f.today-4)
	}},
	{"begins a removed day anew", func(f *fixture) {
		f.mustApply(f.fullBatch(0, 1, 1))
		before := f.versions(f.today)[0]
		f.expire(f.today+1, f.now)
		f.mustApply(f.fullBatch(1, 2, 2))
		f.wantSum(meter.Cells{f.user(): 1}, meter.TypeRollup("t"), f.today)
		f.wantTypes(map[string]uint64{"t": 1}, f.today)
		if v := f.versions(f.today)[0]; v == before || v == "" {
			f.Errorf("version = %q, was %q before", v, before)
		}
	}},
	{"frees the claims accepted more than ClaimLifetime ago, and no others", func(f *fixture) {
		at := f.now.Add(-time.Hour)
		first, second, earlier := claim(1, at), claim(2, at.Add(time.Millisecond)), claim(3, at.Add(-time.Millisecond))
		earliest := claim(4, at.Add(-40*time.Hour))
		f.mustApply(f.claiming(0, first, second, earlier, earliest))
		f.expire(f.today-100, at.Add(store.ClaimLifetime))
		f.wantTaken(f.claiming(1, first, second, earlier, earliest), 0, 1)
		f.mustApply(f.claiming(1, earlier, earliest))
	}},
}

func (f *fixture) expire(oldest event.Day, now time.Time) {
	f.Helper()
	if err := f.store.Expire(f.ctx, oldest, now); err != nil {
		f.Fatalf("Expire(%v, %v): %v", oldest, now, err)
	}
}
