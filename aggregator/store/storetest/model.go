package storetest

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"usaged/aggregator/event"
	"usaged/aggregator/meter"
	"usaged/aggregator/store"
)

// machine sends the same random calls to a store and to Memory, and compares what they answer.
type machine struct {
	store store.Store
	model *Memory
	// selfExpiring is true where the store ignores Expire.
	selfExpiring bool
	now          time.Time
	days         []event.Day
	last         *store.Batch
	// chains are those to which something was sent.
	chains map[chain]bool
	// versions pairs the store's versions with the model's: they differ, but change at the same moments.
	versions map[string]string
}

type chain struct {
	producer  string
	partition int
}

var (
	machineProducers = []string{"p", "q:{p0}"}
	machineTypes     = []string{"sql_generation", "t:user", "x'y"}
	machineKeys      = []string{"", "a", "a\x00", "{p1}", "é", "'"}
	machineRollups   = []meter.Rollup{references, meter.MeterRollup("queries", meter.ByUser), meter.MeterRollup("llm-tokens", meter.ByReference)}
)

func (s *suite) testModel(t *testing.T, partitions int) {
	rapid.Check(t, func(rt *rapid.T) {
		now := time.Now()
		m := &machine{
			store: s.open(t, partitions), model: NewMemory(partitions), selfExpiring: s.selfExpiring,
			now: now, chains: make(map[chain]bool), versions: make(map[string]string),
		}
		defer func() {
			if err := m.store.Close(); err != nil {
				rt.Errorf("Close: %v", err)
			}
		}()
		for i := range event.Day(4) {
			m.days = append(m.days, event.DayOf(now)-i)
		}
		rt.Repeat(map[string]func(*rapid.T){
			"apply":  m.apply,
			"repeat": m.repeat,
			"expire": m.expire,
			"read":   m.read,
		})
		m.read(rt)
	})
}

func (m *machine) apply(rt *rapid.T) {
	b := m.drawBatch(rt)
	m.last = b
	m.applyBoth(rt, b)
}

// repeat sends the last batch again, as a client does that lost the reply.
func (m *machine) repeat(rt *rapid.T) {
	if m.last == nil {
		rt.Skip("nothing was sent yet")
	}
	m.applyBoth(rt, m.last)
}

func (m *machine) applyBoth(rt *rapid.T, b *store.Batch) {
	m.chains[chain{b.Producer, b.Partition}] = true
	got, gotErr := m.store.Apply(rt.Context(), b)
	want, wantErr := m.model.Apply(rt.Context(), b)
	if (gotErr == nil) != (wantErr == nil) {
		rt.Fatalf("Apply(%s): %v, want %v", describe(b), gotErr, wantErr)
	}
	if len(got.Taken) == 0 {
		got.Taken = nil
	}
	if !reflect.DeepEqual(got, want) {
		rt.Fatalf("Apply(%s) = %+v, want %+v", describe(b), got, want)
	}
}

func (m *machine) drawBatch(rt *rapid.T) *store.Batch {
	b := &store.Batch{
		Producer:  rapid.SampledFrom(machineProducers).Draw(rt, "producer"),
		Partition: rapid.IntRange(0, m.model.Partitions()-1).Draw(rt, "partition"),
		Days:      make(map[event.Day]*meter.DayDelta),
		Totals:    make(meter.Totals),
	}
	known, _ := m.model.Producer(rt.Context(), b.Partition, b.Producer)
	b.Prev, b.Session = known.Offset, known.Session
	switch rapid.IntRange(0, 11).Draw(rt, "kind") {
	case 0:
		b.Prev += uint64(rapid.IntRange(1, 3).Draw(rt, "ahead"))
	case 1:
		b.Prev -= min(b.Prev, uint64(rapid.IntRange(1, 3).Draw(rt, "behind")))
	case 2:
		b.Session++
	case 3:
		b.Session -= min(b.Session, 1)
	case 4:
		b.Last = b.Prev
		return b
	}
	b.Last = b.Prev + uint64(rapid.IntRange(1, 5).Draw(rt, "length"))
	m.drawContent(rt, b)
	return b
}

func (m *machine) drawContent(rt *rapid.T, b *store.Batch) {
	value := rapid.Uint64Range(0, 3)
	for range rapid.IntRange(0, 6).Draw(rt, "cells") {
		day := rapid.SampledFrom(m.days).Draw(rt, "day")
		key := rapid.SampledFrom(machineKeys).Draw(rt, "key")
		if rapid.Bool().Draw(rt, "event") {
			events(b, day, rapid.SampledFrom(machineTypes).Draw(rt, "type"), key, value.Draw(rt, "n"))
		} else {
			cell(b, day, rapid.SampledFrom(machineRollups).Draw(rt, "rollup"), key, value.Draw(rt, "n"))
		}
	}
	for range rapid.IntRange(0, 2).Draw(rt, "totals") {
		series := meter.Series{Family: meter.FamilyEvents, A: rapid.SampledFrom(machineTypes).Draw(rt, "series")}
		b.Totals[series] = rapid.Uint64Range(1, meter.MaxLifetime).Draw(rt, "total")
	}
	for range rapid.IntRange(0, 3).Draw(rt, "claims") {
		// Times 12 h apart meet the window's edge often. Two claims of one batch on one id are a day apart, as in a fold.
		c := claim(byte(rapid.IntRange(1, 4).Draw(rt, "id")), m.now.Add(-time.Duration(rapid.IntRange(0, 5).Draw(rt, "half days"))*12*time.Hour))
		if !slices.ContainsFunc(b.Claims, func(o store.Claim) bool { return o.Digest == c.Digest }) {
			b.Claims = append(b.Claims, c)
		}
	}
}

func (m *machine) expire(rt *rapid.T) {
	oldest := rapid.SampledFrom(m.days).Draw(rt, "oldest")
	now := m.now.Add(time.Duration(rapid.IntRange(0, 5).Draw(rt, "half days")) * 12 * time.Hour)
	if rapid.IntRange(0, 3).Draw(rt, "often") > 0 {
		rt.Skip("days would hardly fill")
	}
	if err := m.store.Expire(rt.Context(), oldest, now); err != nil {
		rt.Fatalf("Expire: %v", err)
	}
	if m.selfExpiring {
		return
	}
	if err := m.model.Expire(rt.Context(), oldest, now); err != nil {
		rt.Fatal(err)
	}
}

// read compares everything that can be read.
func (m *machine) read(rt *rapid.T) {
	got, want := m.readAll(rt, m.store), m.readAll(rt, m.model)
	for i, v := range want.Versions {
		if v == "" {
			continue
		}
		if paired, ok := m.versions[v]; ok && paired != got.Versions[i] {
			rt.Fatalf("version of %v changed from %q to %q though nothing touched it", m.days[i], paired, got.Versions[i])
		}
		m.versions[v] = got.Versions[i]
		want.Versions[i] = got.Versions[i]
		if got.Versions[i] == "" {
			rt.Fatalf("no version of %v, which holds something", m.days[i])
		}
	}
	if !reflect.DeepEqual(got, want) {
		rt.Fatalf("store\n%+v\nwant\n%+v", *got, *want)
	}
}

func (m *machine) readAll(rt *rapid.T, s store.Store) *dump {
	d := &dump{InPartition: make(map[string]store.Producer), Cells: make(map[string]meter.Cells)}
	var errs [3]error
	d.Producers, errs[0] = s.Producers(rt.Context())
	d.Versions, errs[1] = s.Versions(rt.Context(), m.days)
	d.Types, errs[2] = s.Types(rt.Context(), m.days)
	for _, err := range errs {
		if err != nil {
			rt.Fatal(err)
		}
	}
	for i := range d.Producers {
		d.Producers[i].Totals = emptyIsNil(d.Producers[i].Totals)
	}
	if len(d.Producers) == 0 {
		d.Producers = nil
	}
	for c := range m.chains {
		producer, err := s.Producer(rt.Context(), c.partition, c.producer)
		if err != nil {
			rt.Fatal(err)
		}
		producer.Totals = emptyIsNil(producer.Totals)
		d.InPartition[fmt.Sprint(c.partition, " ", c.producer)] = producer
	}
	rollups := slices.Clone(machineRollups)
	for _, t := range machineTypes {
		rollups = append(rollups, meter.TypeRollup(t))
	}
	for _, r := range rollups {
		d.Cells[fmt.Sprintf("%q", r)] = m.sum(rt, s, r, m.days)
		d.Cells[fmt.Sprintf("%q today", r)] = m.sum(rt, s, r, m.days[:1])
	}
	return d
}

func (m *machine) sum(rt *rapid.T, s store.Store, r meter.Rollup, days []event.Day) meter.Cells {
	cells := make(meter.Cells)
	err := s.Sum(rt.Context(), r, days, func(key []byte, total uint64) { cells[string(key)] = total })
	if err != nil {
		rt.Fatalf("Sum(%q): %v", r, err)
	}
	return cells
}

func emptyIsNil(totals meter.Totals) meter.Totals {
	if len(totals) == 0 {
		return nil
	}
	return maps.Clone(totals)
}
