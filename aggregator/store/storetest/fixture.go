package storetest

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"testing"
	"time"

	"usaged/aggregator/event"
	"usaged/aggregator/meter"
	"usaged/aggregator/store"
)

// fixture is one empty store under test, with the words in which the tests are written.
type fixture struct {
	*testing.T
	suite      *suite
	ctx        context.Context
	store      store.Store
	partitions int
	now        time.Time
	today      event.Day

	// What the batches so far have touched, which is what dump reads.
	days      map[event.Day]bool
	rollups   map[meter.Rollup]bool
	producers map[string]bool
}

func (s *suite) newFixture(t *testing.T, partitions int) *fixture {
	t.Helper()
	now := time.Now()
	f := &fixture{
		T: t, suite: s, ctx: t.Context(), partitions: partitions,
		now: now, today: event.DayOf(now),
		days:      make(map[event.Day]bool),
		rollups:   map[meter.Rollup]bool{meter.TypeRollup(event.Other): true},
		producers: make(map[string]bool),
	}
	f.store = s.open(t, partitions)
	t.Cleanup(func() {
		if err := f.store.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	if got := f.store.Partitions(); got != partitions {
		t.Fatalf("Partitions() = %d, want %d", got, partitions)
	}
	return f
}

// partition returns a partition that is neither the first nor the last, where there are enough.
func (f *fixture) partition() int { return f.partitions * 3 / 5 }

// users returns n users who lie in a partition.
func (f *fixture) users(partition, n int) []string {
	users := make([]string, 0, n)
	buf := []byte("user-")
	for i := 0; len(users) < n; i++ {
		user := strconv.AppendInt(buf, int64(i), 10)
		if store.PartitionOf(user, f.partitions) == partition {
			users = append(users, string(user))
		}
	}
	return users
}

// user returns the one user of the tests that need no more.
func (f *fixture) user() string { return f.users(f.partition(), 1)[0] }

// batch returns an empty batch of producer "p", session 1, in the fixture's partition.
func (f *fixture) batch(prev, last uint64) *store.Batch {
	return &store.Batch{
		Producer: "p", Session: 1, Partition: f.partition(), Prev: prev, Last: last,
		Days: make(map[event.Day]*meter.DayDelta), Totals: make(meter.Totals),
	}
}

// events adds n events of a user to a batch.
func events(b *store.Batch, day event.Day, eventType, user string, n uint64) {
	delta(b, day).Types[eventType] += n
	cell(b, day, meter.TypeRollup(eventType), user, n)
}

// cell adds n to one cell of a batch.
func cell(b *store.Batch, day event.Day, rollup meter.Rollup, key string, n uint64) {
	d := delta(b, day)
	if d.Rollups[rollup] == nil {
		d.Rollups[rollup] = make(meter.Cells)
	}
	d.Rollups[rollup].Add(key, n)
}

func delta(b *store.Batch, day event.Day) *meter.DayDelta {
	if b.Days[day] == nil {
		b.Days[day] = &meter.DayDelta{Types: make(map[string]uint64), Rollups: make(map[meter.Rollup]meter.Cells)}
	}
	return b.Days[day]
}

// apply applies a batch and fails the test on an error.
func (f *fixture) apply(b *store.Batch) store.Outcome {
	f.Helper()
	out, err := f.store.Apply(f.ctx, b)
	if err != nil {
		f.Fatalf("Apply(%s): %v", describe(b), err)
	}
	f.note(b)
	return out
}

func (f *fixture) note(b *store.Batch) {
	f.producers[b.Producer] = true
	for day, d := range b.Days {
		f.days[day] = true
		for rollup := range d.Rollups {
			f.rollups[rollup] = true
		}
	}
}

// mustApply applies a batch that must take effect without overflow.
func (f *fixture) mustApply(b *store.Batch) {
	f.Helper()
	f.wantOutcome(b, store.Outcome{Applied: true, Offset: b.Last})
}

// wantOutcome applies a batch. Where it isn't to take effect, nothing may change.
func (f *fixture) wantOutcome(b *store.Batch, want store.Outcome) {
	f.Helper()
	f.note(b)
	var before *dump
	if !want.Applied {
		before = f.dump()
	}
	got := f.apply(b)
	if len(got.Taken) == 0 {
		got.Taken = nil
	}
	if !reflect.DeepEqual(got, want) {
		f.Fatalf("Apply(%s) = %+v, want %+v", describe(b), got, want)
	}
	if before != nil {
		f.wantUnchanged(before, describe(b))
	}
}

// wantMismatch applies a batch that must be turned away since the producer's offset is another.
func (f *fixture) wantMismatch(b *store.Batch, offset uint64) {
	f.Helper()
	f.wantOutcome(b, store.Outcome{Offset: offset})
}

func describe(b *store.Batch) string {
	return fmt.Sprintf("producer %q session %d partition %d, %d to %d, %d days, %d claims",
		b.Producer, b.Session, b.Partition, b.Prev, b.Last, len(b.Days), len(b.Claims))
}

// dump is everything that can be read about what the test has touched.
type dump struct {
	Producers   []store.Producer
	InPartition map[string]store.Producer
	Versions    []string
	Types       []map[string]uint64
	Cells       map[string]meter.Cells
}

func (f *fixture) dump() *dump {
	f.Helper()
	days := slices.Sorted(maps.Keys(f.days))
	d := &dump{
		Producers: f.allProducers(), InPartition: make(map[string]store.Producer),
		Versions: f.versions(days...), Types: f.types(days...), Cells: make(map[string]meter.Cells),
	}
	for id := range f.producers {
		for p := range f.partitions {
			d.InPartition[strconv.Itoa(p)+" "+id] = f.producer(p, id)
		}
	}
	for rollup := range f.rollups {
		for _, day := range days {
			d.Cells[fmt.Sprintf("%v %q", day, rollup)] = f.sum(rollup, day)
		}
	}
	return d
}

func (f *fixture) wantUnchanged(before *dump, what string) {
	f.Helper()
	if after := f.dump(); !reflect.DeepEqual(after, before) {
		f.Fatalf("%s changed the store:\nbefore %+v\nafter  %+v", what, *before, *after)
	}
}

// producer reads a producer in a partition.
func (f *fixture) producer(partition int, id string) store.Producer {
	f.Helper()
	p, err := f.store.Producer(f.ctx, partition, id)
	if err != nil {
		f.Fatalf("Producer(%d, %q): %v", partition, id, err)
	}
	if len(p.Totals) == 0 {
		p.Totals = nil
	}
	return p
}

func (f *fixture) allProducers() []store.Producer {
	f.Helper()
	producers, err := f.store.Producers(f.ctx)
	if err != nil {
		f.Fatalf("Producers: %v", err)
	}
	for i := range producers {
		if len(producers[i].Totals) == 0 {
			producers[i].Totals = nil
		}
	}
	return producers
}

func (f *fixture) versions(days ...event.Day) []string {
	f.Helper()
	versions, err := f.store.Versions(f.ctx, days)
	if err != nil {
		f.Fatalf("Versions(%v): %v", days, err)
	}
	if len(versions) != len(days) {
		f.Fatalf("Versions(%v) = %q: want one per day", days, versions)
	}
	return versions
}

func (f *fixture) types(days ...event.Day) []map[string]uint64 {
	f.Helper()
	types, err := f.store.Types(f.ctx, days)
	if err != nil {
		f.Fatalf("Types(%v): %v", days, err)
	}
	if len(types) != len(days) {
		f.Fatalf("Types(%v) has %d elements", days, len(types))
	}
	return types
}

// sum reads a rollup and fails the test where a key comes twice.
func (f *fixture) sum(rollup meter.Rollup, days ...event.Day) meter.Cells {
	f.Helper()
	cells := make(meter.Cells)
	err := f.store.Sum(f.ctx, rollup, days, func(key []byte, total uint64) {
		if _, twice := cells[string(key)]; twice {
			f.Errorf("Sum(%q, %v) yields %q twice", rollup, days, key)
		}
		cells[string(key)] = total
	})
	if err != nil {
		f.Fatalf("Sum(%q, %v): %v", rollup, days, err)
	}
	return cells
}

func (f *fixture) wantSum(want meter.Cells, rollup meter.Rollup, days ...event.Day) {
	f.Helper()
	got := f.sum(rollup, days...)
	if maps.Equal(got, want) {
		return
	}
	const shown = 5
	wrong := 0
	differs := func(key string) bool {
		n, ok := got[key]
		w, wanted := want[key]
		return n != w || ok != wanted
	}
	for _, cells := range []meter.Cells{got, want} {
		for key := range cells {
			if differs(key) && wrong < shown {
				wrong++
				f.Errorf("Sum(%q, %v)[%q] = %d, want %d", rollup, days, key, got[key], want[key])
			}
		}
	}
	f.Fatalf("Sum(%q, %v) has %d keys, want %d", rollup, days, len(got), len(want))
}

func (f *fixture) wantTypes(want map[string]uint64, day event.Day) {
	f.Helper()
	if got := f.types(day)[0]; !maps.Equal(got, want) {
		f.Fatalf("Types(%v) = %v, want %v", day, got, want)
	}
}
