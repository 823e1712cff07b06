package meter

import (
	"fmt"
	"os"
	"regexp"
	"slices"

	"go.yaml.in/yaml/v3"

	"usaged/aggregator/event"
	"usaged/aggregator/yamlfile"
)

// MaxMeters bounds the meters of a file: each one costs time for every event, and room for its sums.
const MaxMeters = 100

// Load returns the built-in meters and behind them those of a file, none where path is empty. The error has a line for each
// fault: file, line and reason.
func Load(path string) ([]Meter, error) {
	if path == "" {
		return Builtin(), nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read meters: %w", err)
	}
	return Parse(path, data)
}

// Parse is Load for what was read from the file with a name.
func Parse(name string, data []byte) ([]Meter, error) {
	known := Builtin()
	meters, err := parse(name, data, known)
	if err != nil {
		return nil, err
	}
	return append(known, meters...), nil
}

// limitTokens sets the limit of the built-in meter of tokens.
func limitTokens(f *yamlfile.File, known []Meter, most uint64) {
	if most == 0 {
		return
	}
	if most > MaxTotal {
		f.Fault(yamlfile.Line(f.Root, "max_tokens"), "max_tokens is %d: at most %d (2^53), up to which every store counts exactly", most, uint64(MaxTotal))
	}
	for i := range known {
		if known[i].tokens() {
			known[i].Max = most
		}
	}
}

// metersFile is the form of a file.
type metersFile struct {
	Meters []Meter `yaml:"meters"`
	// MaxTokens is the Max of the built-in meter of tokens, 0 for what it brings.
	MaxTokens uint64 `yaml:"max_tokens"`
}

// parse reads the meters of a file beside those known already.
func parse(name string, data []byte, known []Meter) ([]Meter, error) {
	var meters metersFile
	file := yamlfile.Parse(name, data)
	file.Decode(&meters)
	check(file, known)
	limitTokens(file, known, meters.MaxTokens)
	if err := file.Err(); err != nil {
		return nil, err
	}
	return meters.Meters, nil
}

// located is a meter and where its fields are.
type located struct {
	Meter
	node *yaml.Node
}

// line is where a field of the meter is, or the meter.
func (m *located) line(field string) int {
	return yamlfile.Line(m.node, field)
}

// empty says that a field of the meter is missing or has no value.
func (m *located) empty(field string) bool {
	value := yamlfile.Lookup(m.node, field)
	return value == nil || value.Kind == yaml.ScalarNode && value.Value == ""
}

// check adds what is wrong although it is YAML of the right form. A meter that isn't of the right form is checked as far as it
// goes.
func check(f *yamlfile.File, known []Meter) {
	if f.Root == nil {
		if f.Err() == nil {
			f.Fault(1, "the file is empty: `meters: []` says that there are no meters")
		}
		return
	}
	list := yamlfile.Lookup(f.Root, "meters")
	if list == nil {
		f.Fault(f.Root.Line, "the field `meters` is missing: `meters: []` says that there are none")
		return
	}
	if list.Kind != yaml.SequenceNode {
		return // which is known already, or there are none
	}
	if len(list.Content) > MaxMeters {
		f.Fault(list.Content[MaxMeters].Line, "there are %d meters: at most %d can be counted", len(list.Content), MaxMeters)
	}
	named, metrics := map[string]int{}, map[string]int{}
	for _, node := range list.Content {
		m := &located{node: node}
		_ = node.Decode(&m.Meter) // its errors are known already
		checkMeter(f, m, known)
		checkMetric(f, m, metrics)
		if line, taken := named[m.Name]; taken && m.Name != "" {
			f.Fault(m.line("name"), "the name %q is taken by the meter of line %d", m.Name, line)
		} else {
			named[m.Name] = m.line("name")
		}
	}
}

var nameForm = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

// reserved are the names of endpoints beside the meters'.
var reserved = []string{"events", "summary", "daily", "ledger", "health", "meters", "quiet", "backfill", "clock", "retention", "labels"}

func checkMeter(f *yamlfile.File, m *located, known []Meter) {
	switch {
	case m.Name == "" && m.empty("name"):
		f.Fault(m.line("name"), "the meter has no name")
	case m.Name == "": // it couldn't be read, which is known already
	case !nameForm.MatchString(m.Name):
		f.Fault(m.line("name"), "the name %q is not a lower-case letter followed by at most 62 of a-z, 0-9 and -", m.Name)
	case slices.Contains(reserved, m.Name):
		f.Fault(m.line("name"), "the name %q is taken by the endpoint /api/v1/usage/%s", m.Name, m.Name)
	case slices.ContainsFunc(known, func(other Meter) bool { return other.Name == m.Name }):
		f.Fault(m.line("name"), "the name %q is taken by a built-in meter", m.Name)
	}
	if m.By != "" && m.By != "user" && m.By != "reference" {
		f.Fault(m.line("by"), `by is "user" or "reference", not %q`, m.By)
	}
	if m.By == "reference" && m.Reference == "" {
		f.Fault(m.line("by"), "`by: reference` needs a reference: the metadata key whose values are counted")
	}
	for _, t := range m.Events {
		if t == "" || len(t) > event.MaxTypeBytes {
			f.Fault(m.line("events"), "the event type %q does not have 1 to %d bytes", t, event.MaxTypeBytes)
		}
	}
	if m.Max > MaxTotal {
		f.Fault(m.line("max"), "max is %d: at most %d (2^53), up to which every store counts exactly", m.Max, uint64(MaxTotal))
	}
	if m.Max != 0 && m.counts() {
		f.Fault(m.line("max"), "max bounds the value of an event, and the meter has none: leave it out, or name a `value` or `sum`")
	}
	checkKeys(f, m, "reference", m.Reference)
	checkKeys(f, m, "value", m.Value)
	checkKeys(f, m, "sum", m.Sum...)
}

// checkKeys checks metadata keys.
func checkKeys(f *yamlfile.File, m *located, field string, keys ...string) {
	for _, key := range keys {
		if key == "" && field == "sum" || len(key) > event.MaxMetadataKeyBytes {
			f.Fault(m.line(field), "the metadata key %q does not have 1 to %d bytes", key, event.MaxMetadataKeyBytes)
		}
	}
}
