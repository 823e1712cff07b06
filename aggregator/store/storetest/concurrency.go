package storetest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"usaged/aggregator/event"
	"usaged/aggregator/meter"
	"usaged/aggregator/store"
)

var concurrencyPromises = []promise{
	{"applies a batch once that many send at the same time", func(f *fixture) {
		const senders = 8
		for i := range uint64(10) {
			b := f.fullBatch(i, i+1, byte(i))
			f.note(b)
			var applied atomic.Int32
			f.together(senders, func(int) error {
				out, err := f.store.Apply(f.ctx, b)
				if out.Applied {
					applied.Add(1)
				}
				if err == nil && out.Offset != i+1 {
					return fmt.Errorf("offset = %d, want %d", out.Offset, i+1)
				}
				return err
			})
			if n := applied.Load(); n != 1 {
				f.Fatalf("batch was applied %d times", n)
			}
		}
		f.wantSum(meter.Cells{f.user(): 10}, meter.TypeRollup("t"), f.today)
	}},
	{"lets one of two batches with the same claim through", func(f *fixture) {
		for i := range 10 {
			var applied, taken atomic.Int32
			f.together(4, func(n int) error {
				b := f.batch(uint64(i), uint64(i+1))
				b.Producer = fmt.Sprintf("p%d", n)
				b.Claims = []store.Claim{claim(byte(i), f.now)}
				out, err := f.store.Apply(f.ctx, b)
				if err != nil || out.Applied {
					applied.Add(1)
					return err
				}
				taken.Add(int32(len(out.Taken)))
				b.Claims = nil
				_, err = f.store.Apply(f.ctx, b)
				return err
			})
			if applied.Load() != 1 || taken.Load() != 3 {
				f.Fatalf("%d applied, %d turned away, want 1, 3", applied.Load(), taken.Load())
			}
		}
	}},
	{"counts everything that many producers add to many partitions", func(f *fixture) {
		const producers, batches = 4, 5
		f.together(producers, func(n int) error {
			for i := range batches * f.partitions {
				b := f.batch(uint64(i/f.partitions), uint64(i/f.partitions+1))
				b.Producer, b.Partition = fmt.Sprintf("p%d", n), i%f.partitions
				events(b, f.today, "t", "everybody", 1)
				if out, err := f.store.Apply(f.ctx, b); err != nil || !out.Applied {
					return fmt.Errorf("Apply(%s) = %+v, %v", describe(b), out, err)
				}
			}
			return nil
		})
		want := uint64(producers * batches * f.partitions)
		f.wantTypes(map[string]uint64{"t": want}, f.today)
		f.wantSum(meter.Cells{"everybody": want}, meter.TypeRollup("t"), f.today)
	}},
	{"shows no reader half a batch", testNoHalfBatch},
}

// together runs do n times at the same time and fails the test where one fails.
func (f *fixture) together(n int, do func(i int) error) {
	f.Helper()
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = do(i) })
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			f.Fatalf("%d: %v", i, err)
		}
	}
}

// testNoHalfBatch applies batches that add 1 to each of many cells on two days, while others read: all cells of a sum must
// be equal then, at twice a number of batches that never falls.
func testNoHalfBatch(f *fixture) {
	const batches, readers = 25, 3
	users := f.users(f.partition(), 300)
	days := []event.Day{f.today - 1, f.today}
	var applied atomic.Bool
	f.together(1+readers, func(n int) error {
		if n == 0 {
			defer applied.Store(true)
			return f.applyToAll(users, days, batches)
		}
		var last uint64
		for done := false; !done; {
			done = applied.Load() // so that each reader sees the end
			total, err := f.readEqual(users, days)
			if err != nil {
				return err
			}
			if total < last {
				return fmt.Errorf("total fell from %d to %d", last, total)
			}
			last = total
		}
		if last != 2*batches {
			return fmt.Errorf("total = %d at the end, want %d", last, 2*batches)
		}
		return nil
	})
}

func (f *fixture) applyToAll(users []string, days []event.Day, batches int) error {
	for i := range uint64(batches) {
		b := f.batch(i, i+1)
		for _, day := range days {
			for _, user := range users {
				events(b, day, "t", user, 1)
			}
		}
		if out, err := f.store.Apply(f.ctx, b); err != nil || !out.Applied {
			return fmt.Errorf("Apply(%s) = %+v, %v", describe(b), out, err)
		}
	}
	return nil
}

// readEqual returns the total that all users have.
func (f *fixture) readEqual(users []string, days []event.Day) (uint64, error) {
	cells := make(meter.Cells)
	if err := f.store.Sum(f.ctx, meter.TypeRollup("t"), days, func(key []byte, total uint64) { cells[string(key)] = total }); err != nil {
		return 0, err
	}
	total := cells[users[0]]
	totals := slices.Collect(maps.Values(cells))
	if len(cells) > 0 && (len(cells) != len(users) || slices.Min(totals) != total || slices.Max(totals) != total || total%2 != 0) {
		return 0, fmt.Errorf("sum has %d of %d users with %d to %d", len(cells), len(users), slices.Min(totals), slices.Max(totals))
	}
	types, err := f.store.Types(f.ctx, days)
	if err != nil {
		return 0, err
	}
	if a, b := types[0]["t"], types[1]["t"]; a != b || a%uint64(len(users)) != 0 {
		return 0, fmt.Errorf("%d and %d events, want the same multiple of %d", a, b, len(users))
	}
	return total, nil
}

var contextPromises = []promise{
	{"applies all or nothing when the context ends", func(f *fixture) {
		users := f.users(f.partition(), 1000)
		var offset uint64
		for i := range 40 {
			b := f.batch(offset, offset+1)
			for _, user := range users {
				events(b, f.today, "t", user, 1)
			}
			b.Claims = []store.Claim{{Digest: [16]byte{1, byte(i)}, AcceptedMillis: f.now.UnixMilli()}}
			f.note(b)
			ctx, cancel := context.WithTimeout(f.ctx, time.Duration(i)*300*time.Microsecond)
			out, err := f.store.Apply(ctx, b)
			cancel()
			now := f.offset()
			if now != b.Prev && now != b.Last || err == nil && (!out.Applied || now != b.Last) {
				f.Fatalf("offset = %d after Apply(%s) = %+v, %v", now, describe(b), out, err)
			}
			offset = now
			f.wantAll(users, offset)
		}
		b := f.batch(offset, offset+1)
		events(b, f.today, "t", f.user(), 1)
		f.mustApply(b)
	}},
	{"reads all or fails when the context ends", func(f *fixture) {
		users := f.users(f.partition(), 2000)
		b := f.batch(0, 1)
		for _, user := range users {
			events(b, f.today, "t", user, 1)
		}
		f.mustApply(b)
		for i := range 40 {
			ctx, cancel := context.WithTimeout(f.ctx, time.Duration(i)*100*time.Microsecond)
			n := 0
			err := f.store.Sum(ctx, meter.TypeRollup("t"), []event.Day{f.today}, func([]byte, uint64) { n++ })
			cancel()
			if err == nil && n != len(users) {
				f.Fatalf("Sum yields %d of %d keys without an error", n, len(users))
			}
		}
		f.wantAll(users, 1)
	}},
	{"refuses to begin when the context has ended", func(f *fixture) {
		ctx, cancel := context.WithCancel(f.ctx)
		cancel()
		if _, err := f.store.Apply(ctx, f.fullBatch(0, 1, 1)); err == nil {
			f.Error("Apply: no error")
		}
		f.mustApply(f.fullBatch(0, 1, 1))
	}},
}

// wantAll checks that each user has n events today.
func (f *fixture) wantAll(users []string, n uint64) {
	f.Helper()
	want := make(meter.Cells)
	if n > 0 {
		for _, user := range users {
			want[user] = n
		}
	}
	f.wantSum(want, meter.TypeRollup("t"), f.today)
	if got := f.types(f.today)[0]["t"]; got != n*uint64(len(users)) {
		f.Fatalf("%d events, want %d", got, n*uint64(len(users)))
	}
}
