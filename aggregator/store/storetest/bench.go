package storetest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"usaged/aggregator/event"
	"usaged/aggregator/meter"
	"usaged/aggregator/store"
)

// The load of the benchmarks.
const (
	benchTypes = 5
	benchUsers = 10_000
	benchDays  = 30
)

// Bench measures Apply of batches with 50,000 cells (5 types × 10,000 users) on one day, and Sum over 30 days of as many
// cells each: one call per type, or one per type and day as a cache of closed days reads them.
func Bench(b *testing.B, open func(b *testing.B, partitions int) store.Store) {
	for _, partitions := range []int{1, 16} {
		b.Run(fmt.Sprintf("op=apply/partitions=%d", partitions), func(b *testing.B) {
			s := open(b, partitions)
			defer s.Close()
			l := newLoad(s)
			for b.Loop() {
				l.apply(b, event.DayOf(time.Now()))
			}
			b.ReportMetric(float64(b.N)*benchTypes*benchUsers/b.Elapsed().Seconds(), "cells/s")
		})
		b.Run(fmt.Sprintf("op=sum/partitions=%d", partitions), func(b *testing.B) {
			s := open(b, partitions)
			defer s.Close()
			l := newLoad(s)
			for _, day := range benchWindow() {
				l.apply(b, day)
			}
			benchSum(b, s)
		})
	}
}

func benchWindow() (days []event.Day) {
	today := event.DayOf(time.Now())
	for day := today - benchDays + 1; day <= today; day++ {
		days = append(days, day)
	}
	return days
}

func benchSum(b *testing.B, s store.Store) {
	window := benchWindow()
	var single [][]event.Day
	for _, day := range window {
		single = append(single, []event.Day{day})
	}
	for _, bench := range []struct {
		name    string
		calls   [][]event.Day
		readers int
	}{
		{"calls=window/readers=1", [][]event.Day{window}, 1},
		{"calls=window/readers=2", [][]event.Day{window}, 2},
		{"calls=day/readers=1", single, 1},
		{"calls=day/readers=2", single, 2},
		{"calls=today/readers=1", single[benchDays-1:], 1},
	} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				sumAll(b, s, bench.calls, bench.readers)
			}
		})
	}
}

// sumAll sums each type over each set of days, with several readers at a time.
func sumAll(b *testing.B, s store.Store, calls [][]event.Day, readers int) {
	type call struct {
		rollup meter.Rollup
		days   []event.Day
	}
	todo := make(chan call, benchTypes*len(calls))
	for _, days := range calls {
		for t := range benchTypes {
			todo <- call{meter.TypeRollup(typeName(t)), days}
		}
	}
	close(todo)
	var wg sync.WaitGroup
	for range readers {
		wg.Go(func() {
			for c := range todo {
				keys := 0
				if err := s.Sum(context.Background(), c.rollup, c.days, func([]byte, uint64) { keys++ }); err != nil || keys != benchUsers {
					b.Errorf("Sum: %d keys, %v", keys, err)
				}
			}
		})
	}
	wg.Wait()
}

// load applies the load of one day again and again.
type load struct {
	store store.Store
	// deltas are the cells of a day, split by partition and into batches as the store likes them.
	deltas  [][]*meter.DayDelta
	offsets []uint64
}

func newLoad(s store.Store) *load {
	l := &load{store: s, deltas: make([][]*meter.DayDelta, s.Partitions()), offsets: make([]uint64, s.Partitions())}
	limit := s.MaxCells()
	if limit == 0 {
		limit = benchTypes * benchUsers
	}
	cells := make([]int, s.Partitions())
	for i := range benchUsers {
		user := fmt.Sprintf("user-%06d@example.com", i*7919%benchUsers)
		p := store.PartitionOf([]byte(user), s.Partitions())
		if len(l.deltas[p]) == 0 || cells[p]+benchTypes > limit {
			l.deltas[p] = append(l.deltas[p], &meter.DayDelta{Types: make(map[string]uint64), Rollups: make(map[meter.Rollup]meter.Cells)})
			cells[p] = 0
		}
		d := l.deltas[p][len(l.deltas[p])-1]
		for t := range benchTypes {
			r := meter.TypeRollup(typeName(t))
			if d.Rollups[r] == nil {
				d.Rollups[r] = make(meter.Cells)
			}
			d.Types[typeName(t)] += 3
			d.Rollups[r].Add(user, 3)
		}
		cells[p] += benchTypes
	}
	return l
}

func (l *load) apply(b *testing.B, day event.Day) {
	for p, deltas := range l.deltas {
		for _, d := range deltas {
			prev := l.offsets[p]
			l.offsets[p]++
			out, err := l.store.Apply(context.Background(), &store.Batch{
				Producer: "p", Session: 1, Partition: p, Prev: prev, Last: prev + 1, Days: map[event.Day]*meter.DayDelta{day: d},
			})
			if err != nil || !out.Applied {
				b.Fatalf("Apply = %+v, %v", out, err)
			}
		}
	}
}
