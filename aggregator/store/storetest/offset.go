package storetest

import (
	"errors"
	"maps"
	"reflect"

	"usaged/aggregator/meter"
	"usaged/aggregator/store"
)

var offsetPromises = []promise{
	{"has offset 0 for an unknown producer", func(f *fixture) {
		want := store.Producer{ID: "nobody"}
		if got := f.producer(f.partition(), "nobody"); !reflect.DeepEqual(got, want) {
			f.Errorf("Producer = %+v, want %+v", got, want)
		}
	}},
	{"moves the offset to the end of an applied batch", func(f *fixture) {
		f.mustApply(f.batch(0, 10))
		f.mustApply(f.batch(10, 11))
		want := store.Producer{ID: "p", Offset: 11, Session: 1}
		if got := f.producer(f.partition(), "p"); !reflect.DeepEqual(got, want) {
			f.Errorf("Producer = %+v, want %+v", got, want)
		}
	}},
	{"changes nothing unless the offset equals Prev, and returns the offset found", func(f *fixture) {
		f.wantMismatch(f.fullBatch(1, 5, 1), 0)
		f.mustApply(f.fullBatch(0, 10, 2))
		for _, prev := range []uint64{0, 9, 11, 1 << 50} {
			f.wantMismatch(f.fullBatch(prev, prev+5, 3), 10)
		}
	}},
	{"applies a repeated batch once, and returns its end the second time", func(f *fixture) {
		b := f.fullBatch(0, 10, 1)
		f.mustApply(b)
		f.wantMismatch(b, 10)
		f.wantMismatch(b, 10)
	}},
	{"takes an empty batch, which only moves the offset", func(f *fixture) {
		f.mustApply(f.fullBatch(0, 10, 1))
		versions, sum := f.versions(f.today), f.sum(meter.TypeRollup("t"), f.today)
		f.mustApply(&store.Batch{Producer: "p", Session: 1, Partition: f.partition(), Prev: 10, Last: 20})
		if got := f.versions(f.today); got[0] != versions[0] {
			f.Errorf("version = %q after an empty batch, want %q as before", got, versions)
		}
		f.wantSum(sum, meter.TypeRollup("t"), f.today)
		f.wantMismatch(f.batch(10, 20), 20)
	}},
	{"takes an empty batch that stays where it is", func(f *fixture) {
		f.mustApply(f.batch(0, 0))
		f.mustApply(f.batch(0, 3))
		f.mustApply(f.batch(3, 3))
		f.mustApply(f.batch(3, 3))
		f.wantMismatch(f.batch(2, 2), 3)
	}},
	{"keeps producers apart", func(f *fixture) {
		f.mustApply(f.fullBatch(0, 10, 1))
		b := f.fullBatch(0, 4, 2)
		b.Producer = "q"
		f.mustApply(b)
		f.mustApply(f.fullBatch(10, 11, 3))
		f.wantSum(meter.Cells{f.user(): 3}, meter.TypeRollup("t"), f.today)
		if p, q := f.producer(f.partition(), "p").Offset, f.producer(f.partition(), "q").Offset; p != 11 || q != 4 {
			f.Errorf("offsets = %d, %d, want 11, 4", p, q)
		}
	}},
	{"keeps partitions apart", func(f *fixture) {
		for p := range f.partitions {
			b := f.batch(0, uint64(10+p))
			b.Partition = p
			f.mustApply(b)
		}
		for p := range f.partitions {
			if got := f.producer(p, "p").Offset; got != uint64(10+p) {
				f.Errorf("offset in partition %d = %d, want %d", p, got, 10+p)
			}
		}
	}},
	{"takes offsets and sessions of up to 2^53", func(f *fixture) {
		const big = 1 << 53
		b := f.batch(0, big-1)
		b.Session = big
		f.mustApply(b)
		b.Prev, b.Last = big-1, big
		f.mustApply(b)
		f.wantMismatch(b, big)
		if p := f.producer(f.partition(), "p"); p.Offset != big || p.Session != big {
			f.Errorf("Producer = %+v, want offset and session %d", p, uint64(big))
		}
	}},
	{"neither modifies nor keeps a batch", testBatchUntouched},
	{"takes a batch larger than MaxCells", func(f *fixture) {
		if f.partitions > 1 {
			return // it takes long, and partitions make no difference
		}
		b, want := f.batch(0, 1), make(meter.Cells)
		for _, user := range f.users(f.partition(), f.store.MaxCells()+1) {
			events(b, f.today, "t", user, 1)
			want[user] = 1
		}
		f.mustApply(b)
		f.wantSum(want, meter.TypeRollup("t"), f.today)
	}},
}

// fullBatch returns a batch with one event of the fixture's user, one lifetime total and one claim, which seed makes unique.
func (f *fixture) fullBatch(prev, last uint64, seed byte) *store.Batch {
	b := f.batch(prev, last)
	events(b, f.today, "t", f.user(), 1)
	b.Totals[meter.Series{Family: meter.FamilyEvents, A: "t"}] = uint64(seed)
	b.Claims = []store.Claim{{Digest: [16]byte{seed}, AcceptedMillis: f.now.UnixMilli()}}
	return b
}

func testBatchUntouched(f *fixture) {
	b, same := f.fullBatch(0, 1, 1), f.fullBatch(0, 1, 1)
	f.mustApply(b)
	if !reflect.DeepEqual(b, same) {
		f.Errorf("batch is %+v after Apply, was %+v", b, same)
	}
	before := f.dump()
	for _, d := range b.Days {
		clear(d.Types)
		for _, cells := range d.Rollups {
			clear(cells)
		}
	}
	clear(b.Days)
	clear(b.Totals)
	b.Claims[0] = store.Claim{}
	f.wantUnchanged(before, "changing a batch after Apply")
	again := f.batch(1, 2)
	again.Claims = same.Claims
	f.wantTaken(again, 0)
}

var fencingPromises = []promise{
	{"refuses a lower session", func(f *fixture) {
		f.mustApply(f.inSession(5, 0, 10))
		f.wantFenced(f.inSession(4, 10, 20), 0)
		f.wantFenced(f.inSession(0, 10, 20), 0)
		f.mustApply(f.inSession(5, 10, 20))
	}},
	{"refuses a lower session even where the offset doesn't match", func(f *fixture) {
		f.mustApply(f.inSession(5, 0, 10))
		f.wantFenced(f.inSession(4, 0, 10), 0)
		f.wantFenced(f.inSession(4, 99, 100), 0)
		b := f.batch(10, 10)
		b.Session = 4
		f.wantFenced(b, 0)
	}},
	{"refuses a lower session even where claims are taken", func(f *fixture) {
		b := f.inSession(5, 0, 10)
		f.mustApply(b)
		again := f.inSession(4, 10, 11)
		again.Claims = b.Claims
		f.wantFenced(again, 0)
	}},
	{"lets a higher session take over", func(f *fixture) {
		f.mustApply(f.inSession(5, 0, 10))
		f.mustApply(f.inSession(6, 10, 20))
		f.wantFenced(f.inSession(5, 20, 30), 10)
		if got := f.producer(f.partition(), "p").Session; got != 6 {
			f.Errorf("session = %d, want 6", got)
		}
	}},
	{"lets a higher session take over with an empty batch", func(f *fixture) {
		f.mustApply(f.inSession(5, 0, 10))
		b := f.batch(10, 10)
		b.Session = 6
		f.mustApply(b)
		f.wantFenced(f.inSession(5, 10, 20), 10)
	}},
	{"says where the first higher session took over, whatever came later", func(f *fixture) {
		f.mustApply(f.inSession(2, 0, 10))
		f.mustApply(f.inSession(2, 10, 15))
		for i := range uint64(20) {
			f.mustApply(f.inSession(4+3*i, 15+20*i, 25+20*i))
			f.mustApply(f.inSession(4+3*i, 25+20*i, 35+20*i))
		}
		f.wantFenced(f.inSession(0, 0, 1), 0)
		f.wantFenced(f.inSession(2, 15, 16), 15)
		f.wantFenced(f.inSession(3, 15, 16), 15)
		f.wantFenced(f.inSession(4, 35, 36), 35)
		f.wantFenced(f.inSession(60, 15+20*19, 16+20*19), 15+20*19)
	}},
	{"says where the first higher session took over, also where some applied nothing", func(f *fixture) {
		f.mustApply(f.inSession(2, 0, 10))
		for session := uint64(4); session < 10; session++ {
			b := f.batch(10, 10)
			b.Session = session
			f.mustApply(b)
		}
		f.mustApply(f.inSession(9, 10, 20))
		f.mustApply(f.inSession(12, 20, 30))
		f.wantFenced(f.inSession(1, 10, 11), 0)
		for session := uint64(2); session < 9; session++ {
			f.wantFenced(f.inSession(session, 10, 11), 10)
		}
		f.wantFenced(f.inSession(9, 20, 21), 20)
	}},
	{"ignores the session of a batch that takes no effect", func(f *fixture) {
		b := f.inSession(5, 0, 10)
		f.mustApply(b)
		f.wantMismatch(f.inSession(6, 0, 10), 10)
		again := f.inSession(7, 10, 20)
		again.Claims = b.Claims
		f.wantTaken(again, 0)
		f.mustApply(f.inSession(5, 10, 20))
		f.mustApply(f.inSession(6, 20, 30))
		f.wantFenced(f.inSession(5, 30, 40), 20)
	}},
	{"takes the session of a batch where it knows none", func(f *fixture) {
		f.mustApply(f.inSession(1<<40, 0, 10))
		f.wantFenced(f.inSession(1<<40-1, 10, 20), 0)
	}},
	{"fences one producer in one partition", func(f *fixture) {
		f.mustApply(f.inSession(5, 0, 10))
		b := f.inSession(1, 0, 3)
		b.Producer = "q"
		f.mustApply(b)
		for p := range f.partitions {
			if b := f.inSession(1, 0, 3); p != f.partition() {
				b.Partition = p
				f.mustApply(b)
			}
		}
	}},
}

// inSession returns a full batch of another session, with a claim that no other has.
func (f *fixture) inSession(session, prev, last uint64) *store.Batch {
	b := f.fullBatch(prev, last, byte(prev))
	b.Session = session
	b.Claims[0].Digest[1] = byte(session)
	return b
}

// wantFenced applies a batch of a producer that another session took over at offset.
func (f *fixture) wantFenced(b *store.Batch, offset uint64) {
	f.Helper()
	f.note(b)
	before := f.dump()
	out, err := f.store.Apply(f.ctx, b)
	if !errors.Is(err, store.ErrFenced) || out.Applied || out.Offset != offset {
		f.Fatalf("Apply(%s) = %+v, %v, want offset %d and ErrFenced", describe(b), out, err, offset)
	}
	f.wantUnchanged(before, describe(b))
}

var totalsPromises = []promise{
	{"overwrites lifetime totals and leaves the others", func(f *fixture) {
		x, y := meter.Series{Family: "events", A: "x"}, meter.Series{Family: "events", A: "y"}
		f.applyTotals(0, meter.Totals{x: 5, y: 7})
		f.applyTotals(1, meter.Totals{x: 6})
		f.wantTotals(meter.Totals{x: 6, y: 7})
		f.applyTotals(2, meter.Totals{x: 2}) // a smaller one as well: the caller knows best
		f.wantTotals(meter.Totals{x: 2, y: 7})
	}},
	{"keeps totals of up to meter.MaxLifetime exact", func(f *fixture) {
		x, y := meter.Series{Family: "events", A: "x"}, meter.Series{Family: "events", A: "y"}
		want := meter.Totals{x: meter.MaxLifetime, y: 1<<53 + 1}
		f.applyTotals(0, want)
		f.wantTotals(want)
	}},
	{"keeps any series apart", func(f *fixture) {
		want := make(meter.Totals)
		for i, s := range hostileStrings() {
			want[meter.Series{Family: s, A: "a", B: "b"}] = uint64(4*i + 1)
			want[meter.Series{Family: "f", A: s, B: "b"}] = uint64(4*i + 2)
			want[meter.Series{Family: "f", A: "a", B: s}] = uint64(4*i + 3)
			want[meter.Series{Family: "g", A: s, B: s}] = uint64(4*i + 4)
		}
		f.applyTotals(0, want)
		f.wantTotals(want)
	}},
	{"keeps the totals of two producers and of two partitions apart", func(f *fixture) {
		x := meter.Series{Family: "events", A: "x"}
		for p := range f.partitions {
			for i, id := range []string{"p", "q"} {
				b := f.batch(0, 1)
				b.Producer, b.Partition, b.Totals[x] = id, p, uint64(10*p+i)
				f.mustApply(b)
			}
		}
		for p := range f.partitions {
			for i, id := range []string{"p", "q"} {
				want := meter.Totals{x: uint64(10*p + i)}
				if got := f.producer(p, id).Totals; !maps.Equal(got, want) {
					f.Errorf("totals of %q in partition %d = %v, want %v", id, p, got, want)
				}
			}
		}
	}},
}

func (f *fixture) applyTotals(prev uint64, totals meter.Totals) {
	f.Helper()
	b := f.batch(prev, prev+1)
	b.Totals = totals
	f.mustApply(b)
}

func (f *fixture) wantTotals(want meter.Totals) {
	f.Helper()
	if got := f.producer(f.partition(), "p").Totals; !maps.Equal(got, want) {
		f.Fatalf("totals = %v, want %v", got, want)
	}
}

var producersPromises = []promise{
	{"lists none in an empty store", func(f *fixture) {
		if got := f.allProducers(); len(got) != 0 {
			f.Errorf("Producers = %+v, want none", got)
		}
	}},
	{"sums totals over the partitions, with the lowest offset and the highest session", func(f *fixture) {
		x := meter.Series{Family: "events", A: "x"}
		var total uint64
		for p := range f.partitions {
			b := f.batch(0, uint64(100-p))
			b.Partition, b.Session, b.Totals[x] = p, uint64(7+p%3), uint64(1+p)
			f.mustApply(b)
			total += uint64(1 + p)
		}
		want := []store.Producer{{
			ID: "p", Offset: uint64(101 - f.partitions), Session: uint64(7 + min(f.partitions-1, 2)), Totals: meter.Totals{x: total},
		}}
		if got := f.allProducers(); !reflect.DeepEqual(got, want) {
			f.Errorf("Producers = %+v, want %+v", got, want)
		}
	}},
	{"takes the offset as 0 where a partition doesn't know the producer", func(f *fixture) {
		b := f.batch(0, 10)
		b.Partition = 0
		f.mustApply(b)
		want := uint64(10)
		if f.partitions > 1 {
			want = 0
		}
		if got := f.allProducers()[0].Offset; got != want {
			f.Errorf("offset = %d, want %d", got, want)
		}
	}},
	{"lists producers in the order of their ids, whatever these are", func(f *fixture) {
		ids := hostileStrings()
		for i, id := range ids {
			b := f.batch(0, uint64(i+1))
			b.Producer, b.Partition = id, i%f.partitions
			f.mustApply(b)
		}
		var got []string
		for _, p := range f.allProducers() {
			got = append(got, p.ID)
		}
		if want := sortedStrings(ids); !reflect.DeepEqual(got, want) {
			f.Errorf("ids = %q, want %q", got, want)
		}
		for i, id := range ids {
			if got := f.producer(i%f.partitions, id).Offset; got != uint64(i+1) {
				f.Errorf("offset of %q = %d, want %d", id, got, i+1)
			}
		}
	}},
}

var reopenPromises = []promise{
	{"keeps everything", func(f *fixture) {
		b := f.fullBatch(0, 10, 1)
		b.Session = 3
		cell(b, f.today-3, meter.MeterRollup("queries", meter.ByReference), "select 1", 0)
		f.mustApply(b)
		before := f.dump()
		f.reopen()
		f.wantUnchanged(before, "reopening")
		f.wantFenced(f.fullBatch(10, 11, 2), 0)
		again := f.fullBatch(10, 11, 1)
		again.Session = 3
		f.wantTaken(again, 0)
		again.Claims = nil
		f.mustApply(again)
		f.wantSum(meter.Cells{f.user(): 2}, meter.TypeRollup("t"), f.today)
	}},
	{"still knows what the limits admitted", func(f *fixture) {
		f.fillReferences()
		f.fillTypes(1)
		f.reopen()
		b := f.batch(2, 3)
		events(b, f.today, typeName(0), f.user(), 1)
		events(b, f.today, "one too many", f.user(), 1)
		cell(b, f.today, references, "one too many", 1)
		cell(b, f.today, references, referenceName(0), 1)
		f.wantOutcome(b, store.Outcome{Applied: true, Offset: 3, Overflow: store.Overflow{Types: 1, References: 1}})
	}},
	{"keeps a store that is empty", func(f *fixture) {
		f.reopen()
		f.reopen()
		f.mustApply(f.fullBatch(0, 10, 1))
	}},
}

func (f *fixture) reopen() {
	f.Helper()
	f.store = f.suite.reopen(f.T, f.store)
}
