package quota

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"usaged/aggregator/durable"
	"usaged/aggregator/event"
	"usaged/aggregator/meter"
	"usaged/api/auth"
)

// Kinds of quotas of names, see Limits. What exceeds them is not refused but counted under event.Other.
const (
	NewTypes      Kind = "new_types"
	NewLabels     Kind = "new_labels"
	NewReferences Kind = "new_references"
)

// NameKinds are the kinds of names.
var NameKinds = []Kind{NewTypes, NewLabels, NewReferences}

// together bounds the new names of a day of all tokens whose names are limited. Each is a fraction of what the daemon counts, so that room
// is left for tokens without limits however many tokens there are with one.
var together = map[Kind]int{NewTypes: 100, NewLabels: 100, NewReferences: 5_000}

// Labels says which label values of lifetime totals have room already, and how much room there is. A *meter.Labels is one.
type Labels interface {
	Has(label, value string) bool
	Room(label string) (used, limit int)
}

// Names knows the names that tokens have added to those that are counted today. Which of an event's names are counted under event.Other is
// decided once, before the event is journalled, and stays so: see event.Excess. It is safe for concurrent use.
//
// What was spent is kept in a file, so that a restart gives nobody a second quota. Of a name that was spent and whose file was not written
// the day's quota is larger by one: no count depends on the file.
type Names struct {
	path   string
	labels Labels

	mu      sync.Mutex
	day     event.Day
	spent   map[string]map[Kind]int // by token; "" stands for all together
	known   map[uint64]struct{}     // digests of the day's names
	unsaved bool
}

// namesFile is the content of the file.
type namesFile struct {
	Day     event.Day               `json:"day"`
	Spent   map[string]map[Kind]int `json:"spent"`
	Digests []uint64                `json:"digests"`
}

var namesFormat = durable.Format{Version: 1}

// OpenNames returns the names of a file, which need not exist. An empty path keeps them in memory alone. A file that cannot be read is begun
// anew, and the error says so: the names can be used all the same.
func OpenNames(path string, labels Labels) (*Names, error) {
	n := &Names{path: path, labels: labels, spent: map[string]map[Kind]int{}, known: map[uint64]struct{}{}}
	if path == "" {
		return n, nil
	}
	var file namesFile
	_, err := namesFormat.LoadJSON(path, &file)
	if errors.Is(err, os.ErrNotExist) {
		return n, nil
	}
	if err != nil {
		return n, fmt.Errorf("read what tokens have spent of their new names, which begins anew: %w", err)
	}
	if file.Spent != nil {
		n.spent = file.Spent
	}
	n.day = file.Day
	for _, d := range file.Digests {
		n.known[d] = struct{}{}
	}
	return n, nil
}

// Judge says which names of an event of a limited token have no room, and tells exceeded of each kind.
func (n *Names) Judge(v *event.View, who *auth.Token, limits Limits, meters []meter.Meter, now time.Time, exceeded func(Kind)) event.Excess {
	j := judgement{names: n, token: who.Name, limits: limits, day: event.DayOf(now)}
	var excess event.Excess
	for _, kind := range []struct {
		kind   Kind
		limit  int
		excess event.Excess
		room   func(*event.View, []meter.Meter) bool
	}{
		{NewTypes, limits.NewTypes, event.ExcessType, j.types},
		{NewLabels, limits.NewLabels, event.ExcessLabels, j.labels},
		{NewReferences, limits.NewReferences, event.ExcessReferences, j.references},
	} {
		if kind.limit > 0 && !kind.room(v, meters) {
			excess |= kind.excess
			exceeded(kind.kind)
		}
	}
	return excess
}

// Save makes durable what was spent. It costs nothing where nothing was.
func (n *Names) Save() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.unsaved || n.path == "" {
		return nil
	}
	if err := namesFormat.SaveJSON(n.path, namesFile{n.day, n.spent, slices.Collect(maps.Keys(n.known))}, 0o640); err != nil {
		return fmt.Errorf("write what tokens have spent of their new names: %w", err)
	}
	n.unsaved = false
	return nil
}

// judgement is the judgement of one event.
type judgement struct {
	names  *Names
	token  string
	limits Limits
	day    event.Day
}

func (j *judgement) types(v *event.View, meters []meter.Meter) bool {
	name := string(v.Type)
	return slices.Contains(event.KnownTypes, name) ||
		slices.ContainsFunc(meters, func(m meter.Meter) bool { return slices.Contains(m.Events, name) }) ||
		j.label(NewTypes, meter.LabelEventType, name)
}

// labels judges the labels that the event adds to, all of them even where one has no room.
func (j *judgement) labels(v *event.View, meters []meter.Meter) bool {
	room := len(v.Source) == 0 || j.label(NewLabels, meter.LabelSource, string(v.Source))
	if model := v.Value("model"); len(model) > 0 {
		room = j.label(NewLabels, meter.LabelModel, meter.CutReference(model)) && room
	}
	for policy := range strings.SplitSeq(string(v.Value("policy_filters")), ",") {
		if policy = meter.CutReference([]byte(strings.TrimSpace(policy))); policy != "" {
			room = j.label(NewLabels, meter.LabelPolicy, policy) && room
		}
	}
	for i := range meters {
		if m := &meters[i]; m.Metric != nil && len(m.Metric.Labels) > 0 && m.Reads(string(v.Type)) {
			room = j.label(NewLabels, m.Metric.Family(), m.Metric.LabelSet(v.Value)) && room
		}
	}
	return room
}

func (j *judgement) references(v *event.View, meters []meter.Meter) bool {
	room := true
	for i := range meters {
		m := &meters[i]
		if m.Reference == "" || !m.Reads(string(v.Type)) {
			continue
		}
		if ref := v.Value(m.Reference); len(ref) > 0 {
			room = j.take(NewReferences, m.Key(), meter.CutReference(ref)) && room
		}
	}
	return room
}

// label judges the value of a label. Limited tokens may fill half of a label's room.
func (j *judgement) label(kind Kind, label, value string) bool {
	if j.names.labels != nil {
		if value == meter.Unknown || j.names.labels.Has(label, value) {
			return true
		}
		if used, limit := j.names.labels.Room(label); used >= limit/2 {
			return false
		}
	}
	return j.take(kind, label, value)
}

// take spends one new name, if it is new and the quotas allow it.
func (j *judgement) take(kind Kind, of, name string) bool {
	n := j.names
	sum := sha256.Sum256([]byte(string(kind) + "\x00" + of + "\x00" + name))
	digest := binary.BigEndian.Uint64(sum[:])
	n.mu.Lock()
	defer n.mu.Unlock()
	if j.day > n.day { // not where a request began before midnight
		n.day, n.known, n.spent = j.day, map[uint64]struct{}{}, map[string]map[Kind]int{}
	}
	if _, known := n.known[digest]; known {
		return true
	}
	limit := map[Kind]int{NewTypes: j.limits.NewTypes, NewLabels: j.limits.NewLabels, NewReferences: j.limits.NewReferences}[kind]
	if n.spent[j.token][kind] >= limit || n.spent[""][kind] >= together[kind] {
		return false
	}
	for _, token := range []string{j.token, ""} {
		if n.spent[token] == nil {
			n.spent[token] = map[Kind]int{}
		}
		n.spent[token][kind]++
	}
	n.known[digest] = struct{}{}
	n.unsaved = true
	return true
}
