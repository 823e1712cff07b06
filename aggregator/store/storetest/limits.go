package storetest

import (
	"fmt"

	"usaged/aggregator/event"
	"usaged/aggregator/meter"
	"usaged/aggregator/store"
)

// references is the rollup by reference of most tests.
var references = meter.MeterRollup("queries", meter.ByReference)

func typeName(i int) string      { return fmt.Sprintf("type %d", i) }
func referenceName(i int) string { return fmt.Sprintf("SELECT %d", i) }

// fillTypes brings today to its limit of types, with the batch that begins at prev.
func (f *fixture) fillTypes(prev uint64) {
	f.Helper()
	b := f.batch(prev, prev+1)
	for i := range store.MaxTypesPerDay {
		events(b, f.today, typeName(i), f.user(), 1)
	}
	f.applyQuietly(b)
}

// fillReferences brings today's references to their limit, with the producer's first batch.
func (f *fixture) fillReferences() {
	f.Helper()
	b := f.batch(0, 1)
	for i := range store.MaxReferencesPerDay {
		cell(b, f.today, references, referenceName(i), 1)
	}
	f.applyQuietly(b)
}

// applyQuietly applies a batch of very many rollups, without making dump read them all.
func (f *fixture) applyQuietly(b *store.Batch) {
	f.Helper()
	out, err := f.store.Apply(f.ctx, b)
	if err != nil || !out.Applied || out.Overflow != (store.Overflow{}) {
		f.Fatalf("Apply(%s) = %+v, %v", describe(b), out, err)
	}
}

// wantOverflow applies a batch of which something must be turned away.
func (f *fixture) wantOverflow(b *store.Batch, want store.Overflow) {
	f.Helper()
	out, err := f.store.Apply(f.ctx, b)
	if err != nil || !out.Applied || out.Offset != b.Last || out.Overflow != want {
		f.Fatalf("Apply(%s) = %+v, %v, want overflow %+v", describe(b), out, err, want)
	}
}

var limitPromises = []promise{
	{"counts the types of a day that exceed the limit under event.Other", testTypeLimit},
	{"admits as many types as there is room for when one batch exceeds the limit", func(f *fixture) {
		const excess = 7
		b := f.batch(0, 1)
		users := f.users(f.partition(), 2)
		for i := range store.MaxTypesPerDay + excess {
			events(b, f.today, typeName(i), users[0], 2)
			events(b, f.today, typeName(i), users[1], 1)
		}
		f.wantOverflow(b, store.Overflow{Types: 3 * excess})
		types := f.types(f.today)[0]
		if len(types) != store.MaxTypesPerDay+1 || types[event.Other] != 3*excess {
			f.Errorf("%d types, %d events of other types, want %d and %d", len(types), types[event.Other], store.MaxTypesPerDay+1, 3*excess)
		}
		f.wantSum(meter.Cells{users[0]: 2 * excess, users[1]: excess}, meter.TypeRollup(event.Other), f.today)
	}},
	{"always has room for reserved types, which take none", func(f *fixture) {
		reserved := []string{"known a", "known b"}
		user := f.user()
		f.fillTypes(0)
		b := f.batch(1, 2)
		events(b, f.today, "known a", user, 1)
		b.Days[f.today].Reserved = reserved
		f.applyQuietly(b)
		for last := range uint64(2) {
			b = f.batch(2+last, 3+last)
			events(b, f.today, "one too many", user, 2)
			events(b, f.today, "known a", user, 3)
			events(b, f.today, "known b", user, 4)
			b.Days[f.today].Reserved = reserved
			f.wantOverflow(b, store.Overflow{Types: 2})
		}
		types := f.types(f.today)[0]
		if types["known a"] != 7 || types["known b"] != 8 || types[event.Other] != 4 || len(types) != store.MaxTypesPerDay+3 {
			f.Errorf("%d and %d events of reserved types, %d of others, %d types; want 7, 8, 4, %d",
				types["known a"], types["known b"], types[event.Other], len(types), store.MaxTypesPerDay+3)
		}
		f.wantSum(meter.Cells{user: 8}, meter.TypeRollup("known b"), f.today)
	}},
	{"limits the types of each day by themselves", func(f *fixture) {
		f.fillTypes(0)
		b := f.batch(1, 2)
		events(b, f.today-1, "another day", f.user(), 1)
		f.mustApply(b)
	}},
	{"limits the types of each partition by themselves", func(f *fixture) {
		f.fillTypes(0)
		for p := range f.partitions {
			b := f.batch(0, 1)
			if b.Partition = p; p == f.partition() {
				continue
			}
			events(b, f.today, "another partition", f.users(p, 1)[0], 1)
			f.mustApply(b)
		}
	}},
	{"leaves the meters of a refused type alone", func(f *fixture) {
		f.fillTypes(0)
		b := f.batch(1, 2)
		events(b, f.today, "one too many", f.user(), 1)
		cell(b, f.today, references, "one too many", 5)
		f.wantOverflow(b, store.Overflow{Types: 1})
		f.wantSum(meter.Cells{"one too many": 5}, references, f.today)
	}},
	{"tells a repeated batch what it turned away", func(f *fixture) {
		f.fillTypes(0)
		b := f.batch(1, 2)
		events(b, f.today, "one too many", f.user(), 3)
		for i := range store.MaxReferencesPerDay + 2 {
			cell(b, f.today, references, referenceName(i), 1)
		}
		want := store.Overflow{Types: 3, References: 2}
		f.wantOverflow(b, want)
		other := f.batch(0, 1)
		other.Producer = "q"
		f.mustApply(other)
		for range 2 {
			f.wantOutcome(b, store.Outcome{Offset: 2, Overflow: want})
		}
		f.mustApply(f.batch(2, 3))
		f.wantMismatch(b, 3)
	}},
	{"counts the references that exceed the limit under event.Other", testReferenceLimit},
	{"admits as many references as there is room for when one batch exceeds the limit", func(f *fixture) {
		const excess = 11
		b := f.batch(0, 1)
		for i := range store.MaxReferencesPerDay + excess {
			cell(b, f.today, references, referenceName(i), 3)
		}
		f.wantOverflow(b, store.Overflow{References: excess})
		f.wantReferences(store.MaxReferencesPerDay+1, 3*excess)
	}},
	{"limits the references of each day and meter by themselves", func(f *fixture) {
		f.fillReferences()
		b := f.batch(1, 2)
		cell(b, f.today-1, references, "another day", 1)
		cell(b, f.today, meter.MeterRollup("dashboards", meter.ByReference), "another meter", 1)
		f.mustApply(b)
	}},
	{"limits the references of each partition by themselves", func(f *fixture) {
		f.fillReferences()
		for p := range f.partitions {
			b := f.batch(0, 1)
			if b.Partition = p; p == f.partition() {
				continue
			}
			cell(b, f.today, references, "another partition", 1)
			f.mustApply(b)
		}
	}},
	{"doesn't limit users", func(f *fixture) {
		b := f.batch(0, 1)
		users := f.users(f.partition(), store.MaxReferencesPerDay+50)
		for _, user := range users {
			events(b, f.today, "t", user, 1)
			cell(b, f.today, meter.MeterRollup("queries", meter.ByUser), user, 1)
		}
		f.applyQuietly(b)
		for _, r := range []meter.Rollup{meter.TypeRollup("t"), meter.MeterRollup("queries", meter.ByUser)} {
			if got := len(f.sum(r, f.today)); got != len(users) {
				f.Errorf("%d users in %q, want %d", got, r, len(users))
			}
		}
	}},
	{"doesn't limit what a mismatched batch would have added", func(f *fixture) {
		b := f.batch(5, 6)
		for i := range store.MaxReferencesPerDay {
			cell(b, f.today, references, referenceName(-i-1), 1)
		}
		f.wantMismatch(b, 0)
		f.fillReferences()
		f.wantReferences(store.MaxReferencesPerDay, 0)
	}},
}

func testTypeLimit(f *fixture) {
	f.fillTypes(0)
	users := f.users(f.partition(), 2)
	b := f.batch(1, 2)
	events(b, f.today, typeName(3), users[0], 10)
	events(b, f.today, "new 1", users[0], 2)
	events(b, f.today, "new 1", users[1], 4)
	events(b, f.today, "new 2", users[1], 8)
	f.wantOverflow(b, store.Overflow{Types: 14})
	b.Prev, b.Last = 2, 3
	f.wantOverflow(b, store.Overflow{Types: 14})

	types := f.types(f.today)[0]
	if types[event.Other] != 28 || types[typeName(3)] != 21 || len(types) != store.MaxTypesPerDay+1 {
		f.Errorf("%d other events, %d of a known type, %d types, want 28, 21, %d",
			types[event.Other], types[typeName(3)], len(types), store.MaxTypesPerDay+1)
	}
	f.wantSum(meter.Cells{users[0]: 4, users[1]: 24}, meter.TypeRollup(event.Other), f.today)
	f.wantSum(meter.Cells{users[0]: 21}, meter.TypeRollup(typeName(3)), f.today)
	f.wantSum(nil, meter.TypeRollup("new 1"), f.today)
}

func testReferenceLimit(f *fixture) {
	const room = 10
	b := f.batch(0, 1)
	for i := range store.MaxReferencesPerDay - room {
		cell(b, f.today, references, referenceName(i), 1)
	}
	f.applyQuietly(b)

	b = f.batch(1, 2)
	for i := range 2 * room { // half of them exist
		cell(b, f.today, references, referenceName(store.MaxReferencesPerDay-2*room+i), 1)
	}
	f.applyQuietly(b)
	f.wantReferences(store.MaxReferencesPerDay, 0)

	b = f.batch(2, 3)
	cell(b, f.today, references, "new 1", 7)
	cell(b, f.today, references, "new 2", 0)
	cell(b, f.today, references, referenceName(0), 5)
	f.wantOverflow(b, store.Overflow{References: 2})
	b.Prev, b.Last = 3, 4
	f.wantOverflow(b, store.Overflow{References: 2})
	f.wantReferences(store.MaxReferencesPerDay+1, 14)
	if got := f.sum(references, f.today)[referenceName(0)]; got != 11 {
		f.Errorf("a known reference has %d, want 11", got)
	}
}

// wantReferences checks how many references there are today, and how much event.Other has.
func (f *fixture) wantReferences(keys int, other uint64) {
	f.Helper()
	got := f.sum(references, f.today)
	if len(got) != keys || got[event.Other] != other {
		f.Fatalf("%d references, %d under event.Other, want %d and %d", len(got), got[event.Other], keys, other)
	}
}
