package storetest

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"usaged/aggregator/event"
	"usaged/aggregator/meter"
	"usaged/aggregator/store"
)

// Memory is a store in maps. It keeps the contract, except that nothing is durable.
type Memory struct {
	mu         sync.Mutex
	partitions []memoryPartition
	versions   map[event.Day]string
}

type memoryPartition struct {
	producers map[string]store.Producer
	takeovers map[string][]takeover
	overflows map[string]store.Overflow // of each producer's last batch
	days      map[event.Day]*meter.DayDelta
	claims    map[[16]byte][]int64
}

// takeover says at which offset a session began.
type takeover struct{ session, offset uint64 }

var _ store.Store = (*Memory)(nil)

// NewMemory returns an empty store.
func NewMemory(partitions int) *Memory {
	m := &Memory{partitions: make([]memoryPartition, partitions), versions: make(map[event.Day]string)}
	for i := range m.partitions {
		m.partitions[i] = memoryPartition{
			producers: make(map[string]store.Producer),
			takeovers: make(map[string][]takeover),
			overflows: make(map[string]store.Overflow),
			days:      make(map[event.Day]*meter.DayDelta),
			claims:    make(map[[16]byte][]int64),
		}
	}
	return m
}

// Partitions returns the number of partitions.
func (m *Memory) Partitions() int { return len(m.partitions) }

// MaxCells returns 0: there is no limit.
func (m *Memory) MaxCells() int { return 0 }

// Close does nothing.
func (m *Memory) Close() error { return nil }

// Apply adds one batch.
func (m *Memory) Apply(ctx context.Context, b *store.Batch) (store.Outcome, error) {
	if err := ctx.Err(); err != nil {
		return store.Outcome{}, err
	}
	if err := b.Check(len(m.partitions)); err != nil {
		return store.Outcome{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	p := &m.partitions[b.Partition]
	known := p.producers[b.Producer]
	if known.Session > b.Session {
		first := slices.IndexFunc(p.takeovers[b.Producer], func(t takeover) bool { return t.session > b.Session })
		return store.Outcome{Offset: p.takeovers[b.Producer][first].offset}, store.ErrFenced
	}
	if known.Offset != b.Prev {
		return store.Outcome{Offset: known.Offset, Overflow: p.overflows[b.Producer]}, nil
	}
	if taken := p.taken(slices.Concat(b.Claims, b.Checks)); len(taken) > 0 {
		return store.Outcome{Offset: known.Offset, Taken: taken}, nil
	}
	out := store.Outcome{Applied: true, Offset: b.Last}
	for day, d := range b.Days {
		p.addDay(day, d, &out.Overflow)
		m.versions[day] = fmt.Sprintf("%016x", rand.Uint64())
	}
	totals := maps.Clone(known.Totals)
	if totals == nil {
		totals = make(meter.Totals)
	}
	maps.Copy(totals, b.Totals)
	for _, c := range b.Claims {
		p.claims[c.Digest] = append(p.claims[c.Digest], c.AcceptedMillis)
	}
	if b.Session > known.Session {
		p.takeovers[b.Producer] = append(p.takeovers[b.Producer], takeover{b.Session, b.Prev})
	}
	p.overflows[b.Producer] = out.Overflow
	p.producers[b.Producer] = store.Producer{ID: b.Producer, Offset: b.Last, Session: b.Session, Totals: totals}
	return out, nil
}

func (p *memoryPartition) taken(claims []store.Claim) (taken []int) {
	for i, c := range claims {
		for _, accepted := range p.claims[c.Digest] {
			if store.Near(c.AcceptedMillis, accepted) {
				taken = append(taken, i)
				break
			}
		}
	}
	return taken
}

func (p *memoryPartition) addDay(day event.Day, d *meter.DayDelta, overflow *store.Overflow) {
	to := p.days[day]
	if to == nil {
		to = &meter.DayDelta{Types: make(map[string]uint64), Rollups: make(map[meter.Rollup]meter.Cells)}
		p.days[day] = to
	}
	for _, t := range d.OrderedTypes() {
		n, room := d.Types[t], store.MaxTypesPerDay
		for _, reserved := range d.Reserved {
			if _, there := to.Types[reserved]; there || reserved == t {
				room++
			}
		}
		if !admits(to.Types, t, room) {
			overflow.Types += n
			t = event.Other
		}
		to.Types[t] = min(to.Types[t]+n, meter.MaxTotal)
	}
	for r, cells := range d.Rollups {
		keys := d.OrderedKeys(r)
		if _, ok := to.Types[r.Type]; r.Meter == "" && !ok {
			r = meter.TypeRollup(event.Other)
		}
		if to.Rollups[r] == nil {
			to.Rollups[r] = make(meter.Cells)
		}
		for _, key := range keys {
			n := cells[key]
			if r.Dim == meter.ByReference && !admits(to.Rollups[r], key, store.MaxReferencesPerDay) {
				overflow.References++
				key = event.Other
			}
			to.Rollups[r][key] = min(to.Rollups[r][key]+n, meter.MaxTotal)
		}
	}
}

// admits reports whether key has a place among limit keys, event.Other not counted.
func admits(m map[string]uint64, key string, limit int) bool {
	if _, ok := m[key]; ok || key == event.Other {
		return true
	}
	n := len(m)
	if _, ok := m[event.Other]; ok {
		n--
	}
	return n < limit
}

// Producer returns what a partition knows of a producer.
func (m *Memory) Producer(_ context.Context, partition int, id string) (store.Producer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.partitions[partition].producers[id]
	p.ID = id
	p.Totals = maps.Clone(p.Totals)
	return p, nil
}

// Producers returns all producers.
func (m *Memory) Producers(context.Context) ([]store.Producer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	merged := make(map[string]store.Producer)
	for _, partition := range m.partitions {
		for id := range partition.producers {
			merged[id] = m.merged(id)
		}
	}
	return slices.SortedFunc(maps.Values(merged), func(a, b store.Producer) int { return cmp.Compare(a.ID, b.ID) }), nil
}

func (m *Memory) merged(id string) store.Producer {
	sum := store.Producer{ID: id, Offset: math.MaxUint64, Totals: make(meter.Totals)}
	for _, partition := range m.partitions {
		sum.Merge(partition.producers[id]) // a partition that doesn't know it has applied nothing: offset 0
	}
	return sum
}

// Versions returns the versions of days.
func (m *Memory) Versions(_ context.Context, days []event.Day) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	versions := make([]string, len(days))
	for i, day := range days {
		versions[i] = m.versions[day]
	}
	return versions, nil
}

// Types returns the events per type.
func (m *Memory) Types(_ context.Context, days []event.Day) ([]map[string]uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	types := make([]map[string]uint64, len(days))
	for i, day := range days {
		types[i] = make(map[string]uint64)
		for _, p := range m.partitions {
			if d := p.days[day]; d != nil {
				for t, n := range d.Types {
					types[i][t] += n
				}
			}
		}
	}
	return types, nil
}

// Sum adds up a rollup.
func (m *Memory) Sum(_ context.Context, r meter.Rollup, days []event.Day, yield func(key []byte, total uint64)) error {
	m.mu.Lock()
	sum := make(meter.Cells)
	for _, day := range days {
		for _, p := range m.partitions {
			if d := p.days[day]; d != nil {
				for key, n := range d.Rollups[r] {
					sum.Add(key, n)
				}
			}
		}
	}
	m.mu.Unlock()
	for key, n := range sum {
		yield([]byte(key), n)
	}
	return nil
}

// Expire removes old days and claims.
func (m *Memory) Expire(_ context.Context, oldest event.Day, now time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.versions, func(day event.Day, _ string) bool { return day < oldest })
	limit := now.Add(-store.ClaimLifetime).UnixMilli()
	for _, p := range m.partitions {
		maps.DeleteFunc(p.days, func(day event.Day, _ *meter.DayDelta) bool { return day < oldest })
		for digest, claims := range p.claims {
			p.claims[digest] = slices.DeleteFunc(claims, func(accepted int64) bool { return accepted < limit })
		}
	}
	return nil
}
