package aggregator

import (
	"cmp"
	"slices"

	"usaged/aggregator/event"
	"usaged/aggregator/meter"
)

// maxLifetimeTypes bounds the event types of lifetime totals, per producer and partition, and of the accounts. Further
// types are counted together under event.Other.
const maxLifetimeTypes = 1_000

// counts are numbers of events per type.
type counts map[string]uint64

func (c counts) add(eventType string, n uint64) {
	if _, known := c[eventType]; !known && len(c) >= maxLifetimeTypes {
		eventType = event.Other
	}
	c[eventType] += n
}

// addTotals adds increments to totals and returns the new values of the series that changed.
func addTotals(totals, increments meter.Totals) meter.Totals {
	perFamily := map[string]int{}
	for s := range totals {
		perFamily[s.Family]++
	}
	changed := meter.Totals{}
	for _, s := range sortedSeries(increments) {
		into := s
		if _, known := totals[s]; !known {
			if perFamily[s.Family] >= maxLifetimeTypes {
				into = meter.Series{Family: s.Family, A: event.Other}
			} else {
				perFamily[s.Family]++
			}
		}
		totals[into] += increments[s]
		changed[into] = totals[into]
	}
	return changed
}

// sortedSeries makes the order in which series are admitted follow from the events alone.
func sortedSeries(totals meter.Totals) []meter.Series {
	list := make([]meter.Series, 0, len(totals))
	for s := range totals {
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b meter.Series) int {
		return cmp.Or(cmp.Compare(a.Family, b.Family), cmp.Compare(a.A, b.A), cmp.Compare(a.B, b.B))
	})
	return list
}
