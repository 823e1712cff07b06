package ledger

import (
	"slices"

	"usaged/aggregator/event"
	"usaged/aggregator/meter"
)

// maxLifetimeTypes bounds the event types of lifetime totals and of the accounts. Which types have an account of their own
// is decided when they are first accepted; further ones are counted together under event.Other. The types of event.KnownTypes always
// have one.
const maxLifetimeTypes = 1_000

// Counts are numbers of events per type.
type Counts map[string]uint64

// Admit returns the name under which a type is counted, and makes room for it if it is new and there is some.
func (c Counts) Admit(eventType string) string {
	if _, known := c[eventType]; known {
		return eventType
	}
	room := maxLifetimeTypes
	if _, has := c[event.Other]; has {
		room++
	}
	if eventType != event.Other && len(c) >= room && !slices.Contains(event.KnownTypes, eventType) {
		return event.Other
	}
	c[eventType] = 0
	return eventType
}

// Add counts events of a type under the name that Admit gives it.
func (c Counts) Add(eventType string, n uint64) { c[c.Admit(eventType)] += n }

// subtract takes events of a type away. Where there are fewer than that it leaves none, and sets impossible: the numbers are wrong
// somewhere, and must be counted anew.
func (c Counts) subtract(eventType string, n uint64, impossible *bool) {
	if c[eventType] < n {
		*impossible = true
		n = c[eventType]
	}
	c[eventType] -= n
}

// AddApplied adds the events that lifetime totals have counted or found to be duplicates, by type.
func (c Counts) AddApplied(totals meter.Totals) {
	for s, n := range totals {
		if _, ok := became(s.Family); ok {
			c[s.A] += n
		}
	}
}

// sum returns the number of events of all types.
func (c Counts) sum() (sum uint64) {
	for _, n := range c {
		sum += n
	}
	return sum
}

// became says what the series of a family count, where these are events by what became of them: each applied event adds one to
// exactly one such series.
func became(family string) (of func(*Account) *uint64, ok bool) {
	switch family {
	case meter.FamilyEvents:
		return func(a *Account) *uint64 { return &a.Counted }, true
	case meter.FamilyDuplicates:
		return func(a *Account) *uint64 { return &a.Duplicates }, true
	}
	return nil, false
}

// AccountOf returns how many events lifetime totals have counted, and how many they have found to be duplicates.
func AccountOf(totals meter.Totals) (a Account) {
	for s, n := range totals {
		if of, ok := became(s.Family); ok {
			*of(&a) += n
		}
	}
	return a
}

// AddTotals adds increments to totals and returns the new values of the series that changed. admitted gives the name
// under which an event type is counted. A total stays at meter.MaxLifetime.
func AddTotals(totals, increments meter.Totals, admitted func(string) string) meter.Totals {
	changed := meter.Totals{}
	for s, n := range increments {
		if meter.TypeFamily(s.Family) {
			s.A = admitted(s.A)
		}
		totals[s] = min(totals[s]+n, meter.MaxLifetime)
		changed[s] = totals[s]
	}
	return changed
}

// Times are Unix milliseconds per event type, of at most as many types as [Counts] admits.
type Times map[string]int64

// Set notes a later event, by its place in the journal: a clock that was ahead for a while is forgotten with the next one.
func (t Times) Set(eventType string, millis int64) {
	if _, known := t[eventType]; !known && len(t) >= maxLifetimeTypes && !slices.Contains(event.KnownTypes, eventType) {
		eventType = event.Other
	}
	t[eventType] = millis
}
