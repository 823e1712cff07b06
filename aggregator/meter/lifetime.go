package meter

import (
	"bytes"
	"slices"
	"time"

	"usaged/aggregator/event"
)

// LateAfter is the time between creation and acceptance beyond which an event is late.
const LateAfter = time.Hour

// Late says that an event was created more than LateAfter before it was accepted.
func Late(v *event.View) bool {
	return v.AcceptedMillis*int64(time.Millisecond)-v.CreatedNanos > int64(LateAfter)
}

// Outcomes are the values of the metadata key outcome that are counted.
const (
	OutcomeSuccess = "success"
	OutcomeFailure = "failure"
)

// TokenKinds are the kinds of LLM tokens: prompt_tokens, completion_tokens, and what total_tokens has beyond the two.
var TokenKinds = [3]string{"prompt", "completion", "other"}

// knownKeys are the metadata keys that lifetime totals read; the constants are their indices.
var knownKeys = []string{"outcome", "model", "prompt_tokens", "completion_tokens", "total_tokens", "policy_filters", "rows"}

const (
	keyOutcome = iota
	keyModel
	keyPrompt
	keyCompletion
	keyTotal
	keyPolicies
	keyRows
)

// Types whose metadata has a meaning of its own.
const (
	typeGeneration = "sql_generation"
	typeExecution  = "sql_execution"
)

// lifetime is the part of a fold that adds to lifetime totals. Its counters outlive Reset, so that no event looks for a
// label's value in Labels but the first, and those for which there is no room.
type lifetime struct {
	labels   *Labels
	reserved []string // types that always have room, sorted
	fold     uint64
	touched  []*counter // those with something in this fold
	overflow map[string]uint64

	sources, policies  map[string]*counter
	models             map[string]*[len(TokenKinds)]counter
	rows, latePolicies counter
	metrics            []*metricFold

	late     bool     // whether the event is
	excess   bool     // whether the labels of the event are counted under event.Other
	sourced  uint64   // events with a source
	last     *counter // the source of the event before
	homeless [][]byte // the event's policies that have no room
}

// counter is one lifetime total's increment.
type counter struct {
	series Series
	n      uint64
	fold   uint64 // in which n was added up
	event  uint64 // for which it was last counted, where it is counted once per event
}

// metricFold is a Metric in the making.
type metricFold struct {
	plan   *plan
	family string
	labels []int
	sets   map[string]*counter
	text   []byte // the label set being looked for
	other  string // the label set of what has no room
}

func newLifetime(f *Folder, labels *Labels) lifetime {
	if labels == nil {
		labels = NewLabels(Limits{})
	}
	l := lifetime{
		labels:       labels,
		reserved:     f.reserved,
		sources:      map[string]*counter{},
		policies:     map[string]*counter{},
		models:       map[string]*[len(TokenKinds)]counter{},
		rows:         counter{series: Series{Family: FamilyRows}},
		latePolicies: counter{series: Series{Family: FamilyLatePolicies}},
	}
	for i := range f.meters {
		p := &f.meters[i]
		if p.Metric == nil {
			continue
		}
		m := &metricFold{plan: p, family: p.Metric.Family(), other: p.Metric.other(), sets: map[string]*counter{}}
		for _, key := range p.Metric.Labels {
			m.labels = append(m.labels, f.use(key))
		}
		l.metrics = append(l.metrics, m)
	}
	return l
}

func (l *lifetime) reset() {
	l.fold++
	l.touched, l.overflow, l.sourced, l.last = l.touched[:0], map[string]uint64{}, 0, nil
}

func (l *lifetime) add(c *counter, n uint64) {
	if c.fold != l.fold {
		c.fold, c.n, c.event = l.fold, 0, 0
		l.touched = append(l.touched, c)
	}
	c.n = min(c.n+n, MaxLifetime)
}

// begin prepares a type for its first event.
func (l *lifetime) begin(t *typeFold) {
	if _, ok := slices.BinarySearch(l.reserved, t.name); ok {
		t.label = l.labels.Reserve(LabelEventType, t.name)
	} else {
		t.label = l.labels.Admit(LabelEventType, []byte(t.name))
	}
	for _, m := range l.metrics {
		if m.plan.Reads(t.name) {
			t.metrics = append(t.metrics, m)
		}
	}
}

// addEvent adds what every event has.
func (l *lifetime) addEvent(t *typeFold, v *event.View) {
	if l.late = Late(v); l.late {
		t.late++
	}
	l.excess = v.Excess&event.ExcessLabels != 0
	if len(v.Source) == 0 {
		return
	}
	l.sourced++
	c := l.last
	if c == nil || l.excess || c.series.A != string(v.Source) {
		c = l.one(l.sources, FamilySources, LabelSource, v.Source)
		l.last = c
	}
	l.add(c, 1)
	if c.series.A == event.Other {
		l.overflow[MetricSources]++
	}
}

// one returns the counter of a label's value.
func (l *lifetime) one(counters map[string]*counter, family, label string, value []byte) *counter {
	if l.excess {
		value = other
	}
	if c := counters[string(value)]; c != nil {
		return c
	}
	name := l.labels.Admit(label, value)
	c := counters[name]
	if c == nil {
		c = &counter{series: Series{Family: family, A: name}}
		counters[name] = c
	}
	return c
}

// addMetadata adds what the known keys say.
func (l *lifetime) addMetadata(f *Folder, t *typeFold) {
	switch string(f.values[keyOutcome].text) {
	case OutcomeSuccess:
		t.success++
		if l.late {
			t.lateSuccess++
		}
	case OutcomeFailure:
		t.failure++
		if l.late {
			t.lateFailure++
		}
	}
	l.addTokens(f)
	switch t.name {
	case typeGeneration:
		if list := f.values[keyPolicies].text; len(list) > 0 {
			l.addPolicies(list, f.stats.Events)
		}
	case typeExecution:
		if n, read := f.number(keyRows, MaxValue); read != absent {
			l.add(&l.rows, n)
		}
	}
}

// addTokens adds the tokens of an event.
func (l *lifetime) addTokens(f *Folder) {
	kinds, _ := f.tokens()
	leftOut := f.tooMuch || f.values[keyPrompt].wrong || f.values[keyCompletion].wrong || f.values[keyTotal].wrong
	if kinds == [len(TokenKinds)]uint64{} && !leftOut {
		return // so that it needs no room
	}
	model := l.model(f.values[keyModel].text)
	for i, n := range kinds {
		if n > 0 || leftOut { // a counter that begins at 0 shows the rise of its first tokens
			l.add(&model[i], n)
		}
	}
	if model[0].series.A == event.Other {
		l.overflow[MetricTokens]++
	}
}

// model returns the counters of a model.
func (l *lifetime) model(value []byte) *[len(TokenKinds)]counter {
	value = known(value)
	if l.excess && string(value) != Unknown {
		value = other
	}
	if m := l.models[string(value)]; m != nil {
		return m
	}
	name := l.labels.Admit(LabelModel, value)
	m := l.models[name]
	if m == nil {
		m = &[len(TokenKinds)]counter{}
		for i, kind := range TokenKinds {
			m[i].series = Series{Family: FamilyTokens, A: name, B: kind}
		}
		l.models[name] = m
	}
	return m
}

var unknown = []byte(Unknown)

// known is a label's value as it is exported.
func known(value []byte) []byte {
	if len(value) == 0 {
		return unknown
	}
	return cut(value)
}

// addPolicies counts each policy of a list once. number is the event's in this fold.
func (l *lifetime) addPolicies(list []byte, number uint64) {
	l.homeless = l.homeless[:0]
	for policy := range bytes.SplitSeq(list, []byte{','}) {
		if policy = cut(bytes.TrimSpace(policy)); len(policy) == 0 {
			continue
		}
		c := l.one(l.policies, FamilyPolicies, LabelPolicy, policy)
		switch {
		case c.series.A == event.Other:
			l.homeless = append(l.homeless, policy)
		case c.fold != l.fold || c.event != number:
			l.addPolicy(c, 1)
			c.event = number
		}
	}
	if len(l.homeless) == 0 {
		return
	}
	slices.SortFunc(l.homeless, bytes.Compare)
	n := uint64(len(slices.CompactFunc(l.homeless, bytes.Equal)))
	l.addPolicy(l.policies[event.Other], n)
	l.overflow[MetricPolicies] += n
}

func (l *lifetime) addPolicy(c *counter, n uint64) {
	l.add(c, n)
	if l.late {
		l.add(&l.latePolicies, n)
	}
}

// addMetrics adds an event to the metrics of its type's meters.
func (l *lifetime) addMetrics(f *Folder, t *typeFold) {
	for _, m := range t.metrics {
		n, ok := f.value(m.plan)
		if !ok || n == 0 {
			continue
		}
		c := l.set(m, f)
		l.add(c, n)
		if c.series.A == m.other && len(m.labels) > 0 {
			l.overflow[m.plan.Metric.Name]++
		}
	}
}

// set returns the counter of the event's label set.
func (l *lifetime) set(m *metricFold, f *Folder) *counter {
	if l.excess && len(m.labels) > 0 {
		return m.counter(m.other)
	}
	m.text = m.text[:0]
	for i, key := range m.labels {
		if i > 0 {
			m.text = append(m.text, '&')
		}
		m.text = appendLabel(m.text, known(f.values[key].text))
	}
	if c := m.sets[string(m.text)]; c != nil {
		return c
	}
	name := ""
	if len(m.labels) > 0 {
		if name = l.labels.Admit(m.family, m.text); name == event.Other {
			name = m.other
		}
	}
	return m.counter(name)
}

// counter returns the counter of a label set that has room.
func (m *metricFold) counter(name string) *counter {
	c := m.sets[name]
	if c == nil {
		c = &counter{series: Series{Family: m.family, A: name}}
		m.sets[name] = c
	}
	return c
}

// addType adds the totals of a type on one day.
func (l *lifetime) addType(delta *Delta, t *typeFold) {
	delta.Totals[Series{Family: FamilyEvents, A: t.name}] += t.n
	for _, total := range []struct {
		family, outcome string
		n               uint64
	}{
		{FamilyLate, "", t.late},
		{FamilyOutcomes, OutcomeSuccess, t.success}, {FamilyLateOutcomes, OutcomeSuccess, t.lateSuccess},
		{FamilyOutcomes, OutcomeFailure, t.failure}, {FamilyLateOutcomes, OutcomeFailure, t.lateFailure},
	} {
		if total.n > 0 {
			delta.Totals[Series{Family: total.family, A: t.label, B: total.outcome}] += total.n
		}
	}
	if t.label == event.Other {
		delta.Overflow[MetricEvents] += t.n
	}
}

// addTo adds all other totals.
func (l *lifetime) addTo(delta *Delta, events uint64) {
	for _, c := range l.touched {
		delta.Totals[c.series] += c.n
	}
	if n := events - l.sourced; n > 0 {
		delta.Totals[Series{Family: FamilySources, A: Unknown}] += n
	}
	for name, n := range l.overflow {
		delta.Overflow[name] = n
	}
}
