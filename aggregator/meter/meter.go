// Package meter defines what is counted: meters, and the folding of events into the deltas that a store applies. It does
// no I/O and has no clock; what it computes follows from its input alone, so that folding the same events again
// gives the same delta.
package meter

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"

	"go.yaml.in/yaml/v3"

	"usaged/aggregator/event"
)

// Meter says what is counted, of which events, and by which keys.
type Meter struct {
	// Name is the last part of the meter's endpoint: a lower-case letter, then at most 62 of [a-z0-9-].
	Name string `yaml:"name"`
	// Description is a sentence for people.
	Description string `yaml:"description"`
	// Events are the event types that the meter reads; none means all.
	Events []string `yaml:"events"`
	// Reference is the metadata key whose value is the second key of the meter, beside the user. Events without it count
	// under their user alone. None means that the meter counts by user only.
	Reference string `yaml:"reference"`
	// Value is the metadata key that is summed. None, and no Sum, means that every event adds 1.
	Value string `yaml:"value"`
	// Sum are metadata keys that are added up where Value is absent. An event that has neither Value nor any of them isn't
	// read by the meter.
	Sum []string `yaml:"sum"`
	// By is the dimension that the endpoint answers with when it isn't asked for one: "user" (the default) or "reference".
	By string `yaml:"by"`
}

// MaxReferenceBytes is where longer references are cut, at a rune's boundary.
const MaxReferenceBytes = 256

// MaxTotal is the largest value of one event and the largest total of a cell: 2^53, up to which integers are exact in
// every store. Larger values are bad values; larger totals stay at MaxTotal.
const MaxTotal = 1 << 53

//go:embed builtin.yaml
var builtin []byte

// Builtin returns the meters users, queries, dashboards and llm-tokens.
func Builtin() []Meter {
	meters, err := Parse(builtin)
	if err != nil {
		panic("meter: builtin.yaml: " + err.Error())
	}
	return meters
}

// Parse reads meters from YAML. Errors name the line or the meter.
func Parse(data []byte) ([]Meter, error) {
	var file struct {
		Meters []Meter `yaml:"meters"`
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(&file); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	for i, m := range file.Meters {
		if err := m.validate(); err != nil {
			return nil, fmt.Errorf("meter %d (%q): %w", i+1, m.Name, err)
		}
		if slices.ContainsFunc(file.Meters[:i], func(other Meter) bool { return other.Name == m.Name }) {
			return nil, fmt.Errorf("meter %d: the name %q is taken by another meter", i+1, m.Name)
		}
	}
	return file.Meters, nil
}

var nameForm = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

// reserved are the names of endpoints beside the meters'.
var reserved = []string{"events", "summary", "daily", "ledger", "health"}

func (m *Meter) validate() error {
	switch {
	case !nameForm.MatchString(m.Name):
		return fmt.Errorf("a name is a lower-case letter followed by at most 62 of a-z, 0-9 and -")
	case slices.Contains(reserved, m.Name):
		return fmt.Errorf("the name is taken by the endpoint /api/v1/usage/%s", m.Name)
	case m.By != "" && m.By != "user" && m.By != "reference":
		return fmt.Errorf(`by is "user" or "reference", not %q`, m.By)
	case m.By == "reference" && m.Reference == "":
		return fmt.Errorf("by: reference needs a reference")
	}
	for _, t := range m.Events {
		if t == "" || len(t) > event.MaxTypeBytes {
			return fmt.Errorf("an event type has 1 to %d bytes", event.MaxTypeBytes)
		}
	}
	return nil
}

// Default is the dimension that the meter's endpoint answers with when it isn't asked for one.
func (m *Meter) Default() Dim {
	if m.By == "reference" {
		return ByReference
	}
	return ByUser
}

// counts says that every event that the meter reads adds 1.
func (m *Meter) counts() bool { return m.Value == "" && len(m.Sum) == 0 }

// reads says whether the meter reads events of a type.
func (m *Meter) reads(eventType string) bool {
	return len(m.Events) == 0 || slices.Contains(m.Events, eventType)
}

// Rollups returns the rollups whose sum answers for one dimension of the meter over days in which the given types
// occurred. A meter that counts events has no rollup by user of its own: it is the sum of its types'.
func (m *Meter) Rollups(dim Dim, types []string) []Rollup {
	if dim == ByReference || !m.counts() {
		return []Rollup{MeterRollup(m.Name, dim)}
	}
	var rollups []Rollup
	for _, t := range types {
		if m.reads(t) {
			rollups = append(rollups, TypeRollup(t))
		}
	}
	return rollups
}
