package sqlite

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"usaged/aggregator/event"
	"usaged/aggregator/meter"
	"usaged/aggregator/store"
)

// dayCache remembers the days that are being written, per partition. It must be cleared when a transaction that used it is
// rolled back after an error.
type dayCache struct {
	days map[dayKey]*dayState
}

type dayKey struct {
	day       event.Day
	partition int
}

// dayState is what the tables hold about a day in one partition, apart from its cells.
type dayState struct {
	dayKey
	// types are the types that were admitted, without event.Other. At most store.MaxTypesPerDay, and the reserved ones.
	types   map[string]struct{}
	rollups map[meter.Rollup]*rollupState
}

type rollupState struct {
	id int64
	// keys is no less than the number of keys of a rollup by reference, or unknownKeys.
	keys int
}

const unknownKeys = -1

// maxCachedDays bounds the cache: a month of late events in each of 16 partitions fits.
const maxCachedDays = 512

func (c *dayCache) clear() { clear(c.days) }

// get returns the state of a day, which the caller keeps up to date.
func (c *dayCache) get(w *writer, day event.Day, partition int) (*dayState, error) {
	key := dayKey{day, partition}
	if state := c.days[key]; state != nil {
		return state, nil
	}
	state, err := loadDay(w, key)
	if err != nil {
		return nil, fmt.Errorf("load day: %w", err)
	}
	if c.days == nil || len(c.days) >= maxCachedDays {
		c.days = make(map[dayKey]*dayState)
	}
	c.days[key] = state
	return state, nil
}

func loadDay(w *writer, key dayKey) (*dayState, error) {
	state := &dayState{dayKey: key, types: make(map[string]struct{}), rollups: make(map[meter.Rollup]*rollupState)}
	rows, err := w.query("SELECT type FROM day_type WHERE day = ? AND partition = ? AND type <> ?",
		int64(key.day), key.partition, event.Other)
	if err != nil {
		return nil, err
	}
	var t string
	if err := scanAll(rows, func() { state.types[t] = struct{}{} }, &t); err != nil {
		return nil, err
	}
	rows, err = w.query("SELECT id, type, meter, dim FROM rollup WHERE day = ? AND partition = ?", int64(key.day), key.partition)
	if err != nil {
		return nil, err
	}
	var id int64
	var r meter.Rollup
	add := func() { state.rollups[r] = &rollupState{id: id, keys: unknownKeys} }
	return state, scanAll(rows, add, &id, &r.Type, &r.Meter, &r.Dim)
}

// admit admits the types of a delta, in their order, while there is room. It returns what to add per type and which types
// were refused.
func (d *dayState) admit(delta *meter.DayDelta) (counts map[string]uint64, refused map[string]struct{}) {
	counts = make(map[string]uint64, len(delta.Types))
	room := store.MaxTypesPerDay
	for _, t := range delta.Reserved {
		if _, known := d.types[t]; known {
			room++
		}
	}
	for _, t := range delta.OrderedTypes() {
		if _, known := d.types[t]; !known && slices.Contains(delta.Reserved, t) {
			room++
		}
		if d.admitType(t, room) {
			counts[t] += delta.Types[t]
			continue
		}
		if refused == nil {
			refused = make(map[string]struct{})
		}
		refused[t] = struct{}{}
		counts[event.Other] += delta.Types[t]
	}
	return counts, refused
}

func (d *dayState) admitType(t string, room int) bool {
	if t == event.Other {
		return true
	}
	if _, known := d.types[t]; known {
		return true
	}
	if len(d.types) >= room {
		return false
	}
	d.types[t] = struct{}{}
	return true
}

// redirect returns the rollups with those of refused types folded into the one of event.Other.
func redirect(rollups map[meter.Rollup]meter.Cells, refused map[string]struct{}) map[meter.Rollup]meter.Cells {
	if len(refused) == 0 {
		return rollups
	}
	other := meter.TypeRollup(event.Other)
	kept := make(map[meter.Rollup]meter.Cells, len(rollups))
	merged := maps.Clone(rollups[other])
	if merged == nil {
		merged = make(meter.Cells)
	}
	for rollup, cells := range rollups {
		if _, ok := refused[rollup.Type]; !ok || rollup.Meter != "" {
			kept[rollup] = cells
			continue
		}
		for key, n := range cells {
			merged.Add(key, n)
		}
	}
	kept[other] = merged
	return kept
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
