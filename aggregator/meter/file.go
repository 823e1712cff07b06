package meter

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"usaged/aggregator/event"
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

// metersFile is the form of a file.
type metersFile struct {
	Meters []Meter `yaml:"meters"`
}

// fault is one thing that is wrong with a file.
type fault struct {
	line   int
	reason string
}

// faults collects them.
type faults struct {
	file string
	list []fault
}

func (f *faults) add(line int, format string, args ...any) {
	f.list = append(f.list, fault{line, fmt.Sprintf(format, args...)})
}

// err lists the faults in the order of their lines, nil where there are none.
func (f *faults) err() error {
	slices.SortStableFunc(f.list, func(a, b fault) int { return a.line - b.line })
	var errs []error
	for _, fault := range f.list {
		errs = append(errs, fmt.Errorf("%s:%d: %s", f.file, fault.line, fault.reason))
	}
	return errors.Join(errs...)
}

// parse reads the meters of a file beside those known already.
func parse(name string, data []byte, known []Meter) ([]Meter, error) {
	f := &faults{file: name}
	var file metersFile
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	err := dec.Decode(&file)
	if errors.Is(err, io.EOF) {
		f.add(1, "the file is empty: `meters: []` says that there are no meters")
		return nil, f.err()
	}
	if err != nil {
		f.addYAML(err)
	}
	var doc yaml.Node
	if yaml.Unmarshal(data, &doc) != nil {
		return nil, f.err() // it isn't YAML at all
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		f.add(1, "the file has more than one document: leave out the lines `---`")
	}
	f.check(&doc, known)
	if err := f.err(); err != nil {
		return nil, err
	}
	return file.Meters, nil
}

var (
	atLine       = regexp.MustCompile(`^(?:yaml: )?line (\d+): (.*)$`)
	unknownField = regexp.MustCompile(`^field (.+) not found in type (\S+)$`)
	repeatedKey  = regexp.MustCompile(`^mapping key "(.*)" already defined at line (\d+)$`)
	wrongKind    = regexp.MustCompile("^cannot unmarshal !!(\\S+)(?: `(.*)`)? into (.*)$")
)

// addYAML adds what the YAML decoder says, in our words.
func (f *faults) addYAML(err error) {
	messages := []string{err.Error()}
	if several, ok := errors.AsType[*yaml.TypeError](err); ok {
		messages = several.Errors
	}
	for _, message := range messages {
		line, reason := 1, message
		if m := atLine.FindStringSubmatch(message); m != nil {
			line, _ = strconv.Atoi(m[1])
			reason = m[2]
		}
		f.add(line, "%s", explain(reason))
	}
}

func explain(reason string) string {
	if m := unknownField.FindStringSubmatch(reason); m != nil {
		if strings.HasSuffix(m[2], ".metersFile") {
			return fmt.Sprintf("unknown field %q: the file has one field, `meters`", m[1])
		}
		return fmt.Sprintf("unknown field %q", m[1])
	}
	if m := repeatedKey.FindStringSubmatch(reason); m != nil {
		return fmt.Sprintf("%s is given twice, see line %s", m[1], m[2])
	}
	if m := wrongKind.FindStringSubmatch(reason); m != nil {
		wanted := "one value"
		switch {
		case strings.HasPrefix(m[3], "[]"):
			wanted = "a list"
		case strings.Contains(m[3], "."):
			wanted = "fields with values"
		}
		return fmt.Sprintf("this must be %s", wanted)
	}
	return strings.TrimPrefix(reason, "yaml: ")
}

// located is a meter and where its fields are.
type located struct {
	Meter
	node *yaml.Node
}

// line is where a field of the meter is, or the meter.
func (m *located) line(field string) int {
	if value := lookup(m.node, field); value != nil {
		return value.Line
	}
	return m.node.Line
}

// empty says that a field of the meter is missing or has no value.
func (m *located) empty(field string) bool {
	value := lookup(m.node, field)
	return value == nil || value.Kind == yaml.ScalarNode && value.Value == ""
}

// lookup returns the value of a key, nil where there is none.
func lookup(node *yaml.Node, key string) *yaml.Node {
	for i := 0; node.Kind == yaml.MappingNode && i+1 < len(node.Content); i += 2 {
		if node.Content[i].Value == key {
			return node.Content[i+1]
		}
	}
	return nil
}

// check adds what is wrong although it is YAML of the right form. A meter that isn't of the right form is checked as far as it
// goes.
func (f *faults) check(doc *yaml.Node, known []Meter) {
	if len(doc.Content) == 0 {
		f.add(1, "the file is empty: `meters: []` says that there are no meters")
		return
	}
	list := lookup(doc.Content[0], "meters")
	if list == nil {
		f.add(doc.Content[0].Line, "the field `meters` is missing: `meters: []` says that there are none")
		return
	}
	if list.Kind != yaml.SequenceNode {
		return // which is known already, or there are none
	}
	if len(list.Content) > MaxMeters {
		f.add(list.Content[MaxMeters].Line, "there are %d meters: at most %d can be counted", len(list.Content), MaxMeters)
	}
	named, metrics := map[string]int{}, map[string]int{}
	for _, node := range list.Content {
		m := &located{node: node}
		_ = node.Decode(&m.Meter) // its errors are known already
		f.checkMeter(m, known)
		f.checkMetric(m, metrics)
		if line, taken := named[m.Name]; taken && m.Name != "" {
			f.add(m.line("name"), "the name %q is taken by the meter of line %d", m.Name, line)
		} else {
			named[m.Name] = m.line("name")
		}
	}
}

var nameForm = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

// reserved are the names of endpoints beside the meters'.
var reserved = []string{"events", "summary", "daily", "ledger", "health", "meters", "quiet", "backfill"}

func (f *faults) checkMeter(m *located, known []Meter) {
	switch {
	case m.Name == "" && m.empty("name"):
		f.add(m.line("name"), "the meter has no name")
	case m.Name == "": // it couldn't be read, which is known already
	case !nameForm.MatchString(m.Name):
		f.add(m.line("name"), "the name %q is not a lower-case letter followed by at most 62 of a-z, 0-9 and -", m.Name)
	case slices.Contains(reserved, m.Name):
		f.add(m.line("name"), "the name %q is taken by the endpoint /api/v1/usage/%s", m.Name, m.Name)
	case slices.ContainsFunc(known, func(other Meter) bool { return other.Name == m.Name }):
		f.add(m.line("name"), "the name %q is taken by a built-in meter", m.Name)
	}
	if m.By != "" && m.By != "user" && m.By != "reference" {
		f.add(m.line("by"), `by is "user" or "reference", not %q`, m.By)
	}
	if m.By == "reference" && m.Reference == "" {
		f.add(m.line("by"), "`by: reference` needs a reference: the metadata key whose values are counted")
	}
	for _, t := range m.Events {
		if t == "" || len(t) > event.MaxTypeBytes {
			f.add(m.line("events"), "the event type %q does not have 1 to %d bytes", t, event.MaxTypeBytes)
		}
	}
	f.checkKeys(m, "reference", m.Reference)
	f.checkKeys(m, "value", m.Value)
	f.checkKeys(m, "sum", m.Sum...)
}

// checkKeys checks metadata keys.
func (f *faults) checkKeys(m *located, field string, keys ...string) {
	for _, key := range keys {
		if key == "" && field == "sum" || len(key) > event.MaxMetadataKeyBytes {
			f.add(m.line(field), "the metadata key %q does not have 1 to %d bytes", key, event.MaxMetadataKeyBytes)
		}
	}
}
