// Package meter defines what is counted: meters, and the folding of events into the deltas that a store applies. It does
// no I/O and has no clock; what it computes follows from its input alone, so that folding the same events again
// gives the same delta.
package meter

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"slices"
)

// Meter says what is counted, of which events, and by which keys.
type Meter struct {
	// Name is the last part of the meter's endpoint: a lower-case letter, then at most 62 of [a-z0-9-].
	Name string `yaml:"name" json:"name"`
	// Description is a sentence for people.
	Description string `yaml:"description" json:"description,omitempty"`
	// Events are the event types that the meter reads; none means all.
	Events []string `yaml:"events" json:"events,omitempty"`
	// Reference is the metadata key whose value is the second key of the meter, beside the user. Events without it count
	// under their user alone. None means that the meter counts by user only.
	Reference string `yaml:"reference" json:"reference,omitempty"`
	// Value is the metadata key that is summed. None, and no Sum, means that every event adds 1.
	Value string `yaml:"value" json:"value,omitempty"`
	// Sum are metadata keys that are added up where Value is absent. An event that has neither Value nor any of them isn't
	// read by the meter.
	Sum []string `yaml:"sum" json:"sum,omitempty"`
	// Max is the largest value that an event can have, 0 for MaxValue. An event with more adds 0 to the meter, and counts as a bad
	// value: one mistaken or malicious event must not drown all others.
	Max uint64 `yaml:"max" json:"max,omitempty"`
	// By is the dimension that the endpoint answers with when it isn't asked for one: "user" (the default) or "reference".
	By string `yaml:"by" json:"by,omitempty"`
	// Metric exports the meter's value to Prometheus, where it isn't nil.
	Metric *Metric `yaml:"metric" json:"metric,omitempty"`
	// Builtin says that the meter is one of Builtin.
	Builtin bool `yaml:"-" json:"builtin,omitempty"`
}

// MaxReferenceBytes is where longer references are cut, at a rune's boundary.
const MaxReferenceBytes = 256

// MaxTotal is the largest total of a cell, and the largest limit of a meter: 2^53, up to which integers are exact in every store.
// Larger totals of a day stay at MaxTotal.
const MaxTotal = 1 << 53

// MaxValue is the largest value of one event where the meter sets no limit. It takes thousands of events of such a size, of one
// user or reference on one day, until a total reaches MaxTotal.
const MaxValue = 1_000_000_000_000

// MaxLifetime is the largest lifetime total of a partition: every store keeps it exactly, and so the sum over some partitions.
const MaxLifetime = 1 << 58

//go:embed builtin.yaml
var builtin []byte

// Builtin returns the meters users, queries, dashboards and llm-tokens.
func Builtin() []Meter {
	meters, err := parse("builtin.yaml", builtin, nil)
	if err != nil {
		panic("meter: " + err.Error())
	}
	for i := range meters {
		meters[i].Builtin = true
	}
	return meters
}

// Key names the meter's rollups in a store. That of an operator's meter has a digest of what it counts behind its name: a
// meter that is defined otherwise is another meter, whose sums begin anew beside the old ones, and replicas
// that know different definitions for a while never add to each other's.
func (m *Meter) Key() string {
	if m.Builtin {
		return m.Name
	}
	h := sha256.New()
	for _, part := range [][]string{slices.Sorted(slices.Values(m.Events)), {m.Reference}, {m.Value}, slices.Sorted(slices.Values(m.Sum))} {
		fmt.Fprintf(h, "%q\n", part)
	}
	if m.Max != 0 {
		fmt.Fprintf(h, "%d\n", m.Max)
	}
	return m.Name + "@" + hex.EncodeToString(h.Sum(nil)[:6])
}

// Default is the dimension that the meter's endpoint answers with when it isn't asked for one.
func (m *Meter) Default() Dim {
	if m.By == "reference" {
		return ByReference
	}
	return ByUser
}

// most is the largest value of one event.
func (m *Meter) most() uint64 {
	if m.Max == 0 {
		return MaxValue
	}
	return m.Max
}

// tokens says that it is the built-in meter of tokens, which counts what the metric of tokens does.
func (m *Meter) tokens() bool { return m.Builtin && m.Name == "llm-tokens" }

// counts says that every event that the meter reads adds 1.
func (m *Meter) counts() bool { return m.Value == "" && len(m.Sum) == 0 }

// Reads says whether the meter reads events of a type.
func (m *Meter) Reads(eventType string) bool {
	return len(m.Events) == 0 || slices.Contains(m.Events, eventType)
}

// Stored says that the meter has rollups of its own: all but one that counts events by user alone, which is read from
// the rollups of their types.
func (m *Meter) Stored() bool { return m.Reference != "" || !m.counts() }

// Rollups returns the rollups whose sum answers for one dimension of the meter over days in which the given types
// occurred. A meter that counts events has no rollup by user of its own: it is the sum of its types'.
func (m *Meter) Rollups(dim Dim, types []string) []Rollup {
	if dim == ByReference || !m.counts() {
		return []Rollup{MeterRollup(m.Key(), dim)}
	}
	var rollups []Rollup
	for _, t := range types {
		if m.Reads(t) {
			rollups = append(rollups, TypeRollup(t))
		}
	}
	return rollups
}
