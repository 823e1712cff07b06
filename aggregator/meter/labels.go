package meter

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"usaged/aggregator/event"
)

// Labels that clients fill. A metric's label sets are kept under the metric's family.
const (
	LabelEventType = "event_type"
	LabelSource    = "source"
	LabelModel     = "model"
	LabelPolicy    = "policy"
)

// Unknown is the value of a label that an event says nothing about.
const Unknown = "unknown"

// Limits bound the values of labels. 0 stands for the default.
type Limits struct {
	// EventTypes (200), Sources (100), Models (100) and Policies (100) bound the labels of these names, Metric (200) the label
	// sets of each meter's metric.
	EventTypes, Sources, Models, Policies, Metric int
}

// Labels knows which values the labels of lifetime totals have. A value gets room when it is first counted, and keeps it;
// what comes when a label is full is counted under event.Other for ever, so that counting the same events again
// gives the same totals. For that the caller makes durable what has changed before it uses a delta. It is safe for
// concurrent use.
type Labels struct {
	limits Limits

	mu      sync.Mutex
	changes uint64
	file    labelsFile
	known   map[string]map[string]string // label → value → the same value
}

// labelsFile is the form in which labels are kept.
type labelsFile struct {
	Version int `json:"version"`
	// Values are in the order in which they got room.
	Values map[string][]string `json:"values"`
	// Freed are those of Values that take no room, see Free.
	Freed map[string][]string `json:"freed,omitempty"`
}

const labelsVersion = 1

// NewLabels returns labels that have the values of event.KnownTypes alone.
func NewLabels(limits Limits) *Labels {
	l := &Labels{limits: limits, known: map[string]map[string]string{}}
	l.file = labelsFile{Version: labelsVersion, Values: map[string][]string{}, Freed: map[string][]string{}}
	for _, t := range event.KnownTypes {
		l.add(LabelEventType, t)
	}
	return l
}

// MarshalJSON writes what UnmarshalJSON reads.
func (l *Labels) MarshalJSON() ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return json.Marshal(l.file)
}

// UnmarshalJSON replaces the values by those written.
func (l *Labels) UnmarshalJSON(data []byte) error {
	var file labelsFile
	if err := json.Unmarshal(data, &file); err != nil {
		return err
	}
	if file.Version != labelsVersion {
		return fmt.Errorf("version %d is not %d", file.Version, labelsVersion)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for label, values := range file.Values {
		for _, value := range values {
			l.add(label, value)
		}
	}
	if len(file.Freed) > 0 {
		l.file.Freed = file.Freed
	}
	return nil
}

// Changes returns a number that is higher after every change.
func (l *Labels) Changes() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changes
}

// Admit returns the value under which something is counted: the value itself, which gets room where it is new and there
// is some, or event.Other.
func (l *Labels) Admit(label string, value []byte) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if known, ok := l.known[label][string(value)]; ok {
		return known
	}
	name := event.Visible(string(value)) // labels are printed on terminals
	if known, ok := l.known[label][name]; ok {
		return known
	}
	switch name {
	case event.Other:
		return event.Other
	case Unknown: // ours too, so that it needs no room
		return Unknown
	}
	if l.used(label) >= l.limits.of(label) {
		return event.Other
	}
	return l.add(label, name)
}

// used is how many values take room. l.mu is held.
func (l *Labels) used(label string) int { return len(l.known[label]) - len(l.file.Freed[label]) }

// add gives a value room. l.mu is held.
func (l *Labels) add(label, value string) string {
	if known, ok := l.known[label][value]; ok {
		return known
	}
	if l.known[label] == nil {
		l.known[label] = map[string]string{}
	}
	value = strings.Clone(value)
	l.known[label][value] = value
	l.file.Values[label] = append(l.file.Values[label], value)
	l.changes++
	return value
}

func (lim Limits) of(label string) int {
	limit, standard := lim.Metric, 200
	switch label {
	case LabelEventType:
		limit = lim.EventTypes
	case LabelSource:
		limit, standard = lim.Sources, 100
	case LabelModel:
		limit, standard = lim.Models, 100
	case LabelPolicy:
		limit, standard = lim.Policies, 100
	}
	if limit == 0 {
		return standard
	}
	return limit
}

// Reserve gives a value room whatever the limit says.
func (l *Labels) Reserve(label, value string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.add(label, event.Visible(value))
}

// Has says whether a value has room.
func (l *Labels) Has(label, value string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, known := l.known[label][event.Visible(value)]
	return known
}

// LabelState is what is known of a label.
type LabelState struct {
	Label string `json:"label"`
	// Used is how many values take room, Limit how many can.
	Used  int `json:"used"`
	Limit int `json:"limit"`
	// Values are in the order in which they got room. Those that are also in Freed take none.
	Values []string `json:"values"`
	Freed  []string `json:"freed"`
}

// States returns all labels that have values, in the order of their names.
func (l *Labels) States() []LabelState {
	l.mu.Lock()
	defer l.mu.Unlock()
	var states []LabelState
	for _, label := range slices.Sorted(maps.Keys(l.file.Values)) {
		states = append(states, LabelState{label, l.used(label), l.limits.of(label),
			slices.Clone(l.file.Values[label]), append([]string{}, l.file.Freed[label]...)})
	}
	return states
}

// MaxFreed bounds the freed values of a label.
const MaxFreed = 1_000

// Free gives the room of a value to others, in the labels that have it, and returns which these are. The value's total stays, since a
// counter never falls, and further events are still counted by its name, so that counting again gives the same totals.
func (l *Labels) Free(value string) (labels []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	value = event.Visible(value)
	for _, label := range slices.Sorted(maps.Keys(l.known)) {
		_, known := l.known[label][value]
		if freed := l.file.Freed[label]; known && len(freed) < MaxFreed && !slices.Contains(freed, value) {
			l.file.Freed[label] = append(freed, value)
			l.changes++
			labels = append(labels, label)
		}
	}
	return labels
}

// Room returns how many values of a label have room, and how many can have.
func (l *Labels) Room(label string) (used, limit int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.used(label), l.limits.of(label)
}

// EventType returns the label of an event type, and false where it has none yet although there is room.
func (l *Labels) EventType(name string) (string, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	name = event.Visible(name)
	if known, ok := l.known[LabelEventType][name]; ok {
		return known, true
	}
	full := l.used(LabelEventType) >= l.limits.of(LabelEventType)
	return event.Other, full || name == event.Other
}

// Learn gives room to the values that totals have, whatever the limits say: where the values have been lost they are made
// again from what was counted.
func (l *Labels) Learn(totals Totals) {
	byName := func(a, b Series) int { return strings.Compare(a.A, b.A) }
	for _, s := range slices.SortedFunc(maps.Keys(totals), byName) {
		label := s.label()
		if label == "" || s.A == event.Other || s.A == Unknown {
			continue
		}
		if s.Family == FamilyEvents { // has more types than the label
			l.Admit(label, []byte(s.A))
			continue
		}
		l.mu.Lock()
		l.add(label, s.A)
		l.mu.Unlock()
	}
}

// label is the label whose value A is, "" where it is none that clients fill.
func (s Series) label() string {
	switch s.Family {
	case FamilyEvents, FamilyLate, FamilyOutcomes, FamilyLateOutcomes:
		return LabelEventType
	case FamilySources:
		return LabelSource
	case FamilyTokens:
		return LabelModel
	case FamilyPolicies:
		return LabelPolicy
	case FamilyDuplicates, FamilyLatePolicies, FamilyRows:
		return ""
	}
	if s.A == "" {
		return ""
	}
	return s.Family
}
