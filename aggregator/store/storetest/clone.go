package storetest

import (
	"maps"
	"slices"

	"usaged/aggregator/meter"
)

// Clone returns a store with the same content: a snapshot to go back to.
func (m *Memory) Clone() *Memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := NewMemory(len(m.partitions))
	c.versions = maps.Clone(m.versions)
	for i, p := range m.partitions {
		to := &c.partitions[i]
		for id, known := range p.producers {
			known.Totals = maps.Clone(known.Totals)
			to.producers[id] = known
		}
		maps.Copy(to.overflows, p.overflows)
		for id, list := range p.takeovers {
			to.takeovers[id] = slices.Clone(list)
		}
		for day, d := range p.days {
			to.days[day] = cloneDay(d)
		}
		for digest, list := range p.claims {
			to.claims[digest] = slices.Clone(list)
		}
	}
	return c
}

func cloneDay(d *meter.DayDelta) *meter.DayDelta {
	c := &meter.DayDelta{Types: maps.Clone(d.Types), Rollups: map[meter.Rollup]meter.Cells{}}
	for r, cells := range d.Rollups {
		c.Rollups[r] = maps.Clone(cells)
	}
	return c
}
