package meter

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"usaged/aggregator/event"
)

// Dim is one of the two dimensions that a meter keeps per day.
type Dim string

// A meter sums by user and, for events that carry its reference, by reference.
const (
	ByUser      Dim = "user"
	ByReference Dim = "ref"
)

// Rollup names one table of sums that is kept per day: key → total. Either Type is set (the events of this type, by
// user), or Meter, which is a meter's Key, and Dim are.
type Rollup struct {
	Type  string
	Meter string
	Dim   Dim
}

// TypeRollup is the rollup that counts the events of one type by user.
func TypeRollup(eventType string) Rollup { return Rollup{Type: eventType} }

// MeterRollup is the rollup of one dimension of the meter with a key.
func MeterRollup(key string, dim Dim) Rollup { return Rollup{Meter: key, Dim: dim} }

// Cells are the sums of one rollup: user or reference → total. Totals are at most 2^53, so that they are exact in
// every store.
type Cells map[string]uint64

// Add adds n to the total of key.
func (c Cells) Add(key string, n uint64) { c[key] += n }

// DayDelta is what a fold adds to one day.
type DayDelta struct {
	// Types has the number of events per type. A type's count is the sum of its cells in Rollups.
	Types map[string]uint64
	// Rollups has the cells of every rollup that the fold touched. A cell may be 0: a key that was seen but added
	// nothing is still a key.
	Rollups map[Rollup]Cells

	// TypeOrder lists the keys of Types, and KeyOrder those of the rollups by reference, in the order of their first
	// appearance. In this order the limits on types and references give them room, so that the same ones get it
	// however events fall into deltas. What has no order here is taken in the order of its name.
	TypeOrder []string
	KeyOrder  map[Rollup][]string

	// Reserved lists types that have room whatever the limit on types says, and take none of it: those of event.KnownTypes and those
	// that meters name. Not all of them are in Types.
	Reserved []string
}

// OrderedTypes returns the keys of Types in the order in which they are given room.
func (d *DayDelta) OrderedTypes() []string { return ordered(d.TypeOrder, d.Types) }

// OrderedKeys returns the keys of a rollup in the order in which they are given room.
func (d *DayDelta) OrderedKeys(r Rollup) []string { return ordered(d.KeyOrder[r], d.Rollups[r]) }

func ordered(order []string, keys map[string]uint64) []string {
	if len(order) == len(keys) {
		return order
	}
	return slices.Sorted(maps.Keys(keys))
}

// Series names one lifetime total of a producer: a family, which is one of those below or of a Metric, and up to two
// label values.
type Series struct {
	Family string
	A, B   string
}

// Families of lifetime totals.
const (
	// FamilyEvents counts events by type (A).
	FamilyEvents = "events"
	// FamilyDuplicates counts duplicates by type (A).
	FamilyDuplicates = "duplicates"
	// FamilyLate counts events created more than LateAfter before their acceptance, by type (A).
	FamilyLate = "late"
	// FamilyOutcomes counts events by type (A) and outcome (B): OutcomeSuccess or OutcomeFailure.
	FamilyOutcomes = "outcomes"
	// FamilyLateOutcomes is FamilyOutcomes of late events alone.
	FamilyLateOutcomes = "late_outcomes"
	// FamilySources counts events by source (A).
	FamilySources = "sources"
	// FamilyTokens adds up LLM tokens by model (A) and kind (B): one of TokenKinds.
	FamilyTokens = "tokens"
	// FamilyPolicies counts events by policy (A).
	FamilyPolicies = "policies"
	// FamilyLatePolicies is what late events add to FamilyPolicies, all policies together.
	FamilyLatePolicies = "late_policies"
	// FamilyRows adds up the rows of queries.
	FamilyRows = "rows"
)

// TypeFamily says that A is an event type in all series of a family.
func TypeFamily(family string) bool {
	switch family {
	case FamilyEvents, FamilyDuplicates, FamilyLate, FamilyOutcomes, FamilyLateOutcomes:
		return true
	}
	return false
}

// Totals are lifetime totals of one producer in one partition.
type Totals map[Series]uint64

// Delta is what a fold of consecutive events of one partition adds to the store.
type Delta struct {
	Days map[event.Day]*DayDelta
	// Totals are increments.
	Totals Totals
	// Overflow says by metric, as usage_events_total, how often something was counted under event.Other for want of room.
	Overflow map[string]uint64
}

// MarshalText writes a series as path-escaped parts with slashes between them, as a key in JSON or in a store.
func (s Series) MarshalText() ([]byte, error) {
	text := url.PathEscape(s.Family) + "/" + url.PathEscape(s.A)
	if s.B != "" {
		text += "/" + url.PathEscape(s.B)
	}
	return []byte(text), nil
}

// UnmarshalText reads what MarshalText wrote.
func (s *Series) UnmarshalText(text []byte) error {
	parts := strings.Split(string(text), "/")
	if len(parts) < 2 || len(parts) > 3 {
		return fmt.Errorf("series %q does not have two or three parts", text)
	}
	for i, p := range parts {
		part, err := url.PathUnescape(p)
		if err != nil {
			return fmt.Errorf("series %q: %w", text, err)
		}
		*[]*string{&s.Family, &s.A, &s.B}[i] = part
	}
	return nil
}
