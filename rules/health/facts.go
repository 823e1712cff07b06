package health

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"
)

// names are the records that a report is made of.
var names = []string{
	"usage:health:scope", "usage:health:type_score", "usage:health:type_mode", "usage:health:since", "usage:health:unknown",
	"usage:health:component", "usage:health:observed", "usage:health:usual", "usage:health:weight", "usage:health:good", "usage:health:least",
	"usage:health:mode_threshold", "usage:health:major",
	"usage:activity:observed", "usage:activity:expected", "usage:activity:lower", "usage:activity:upper", "usage:activity:window",
	"usage:activity:judged", "usage:activity:dropped", "usage:activity:silent", "usage:activity:rose", "usage:activity:accepted",
	"usage:activity:unknown", "usage:activity:weeks",
	"usage:failures:increase15m", "usage:outcomes:increase15m",
}

// recorded asks for all of them at once. An alternation of whole names is looked up, not searched for.
var recorded = `{__name__=~"` + strings.Join(names, "|") + `"}`

// key is a series by the labels that the rules give. The second is the component, the window, the reason or the mode.
type key struct{ name, eventType, second string }

// facts are the values of one evaluation.
type facts struct {
	values  map[key]float64
	seconds map[key][]string // the second labels of a name and event type, sorted
	types   []string
	labels  map[key]int // how many labels a series has
}

func newFacts(samples model.Vector) *facts {
	f := &facts{values: map[key]float64{}, seconds: map[key][]string{}, labels: map[key]int{}}
	types := map[string]bool{}
	for _, s := range samples {
		k := key{string(s.Metric[model.MetricNameLabel]), string(s.Metric["event_type"]), ""}
		for _, label := range []model.LabelName{"component", "window", "reason", "mode", "week"} {
			if v := s.Metric[label]; v != "" {
				k.second = string(v)
			}
		}
		// Copies of the same that replicas sent to a central Prometheus have more labels than its own.
		if n, ok := f.labels[k]; ok && n <= len(s.Metric) {
			continue
		}
		if _, known := f.values[k]; !known {
			first := key{k.name, k.eventType, ""}
			f.seconds[first] = append(f.seconds[first], k.second)
		}
		f.values[k], f.labels[k] = float64(s.Value), len(s.Metric)
		if k.eventType != "" && k.eventType != AllTypes && k.name == "usage:health:scope" {
			types[k.eventType] = true
		}
	}
	for _, list := range f.seconds {
		slices.Sort(list)
	}
	f.types = slices.Sorted(maps.Keys(types))
	return f
}

// get returns a value, nil where it was not recorded.
func (f *facts) get(name, eventType, second string) *float64 {
	if v, ok := f.values[key{name, eventType, second}]; ok {
		return &v
	}
	return nil
}

// value is get with a substitute for what was not recorded.
func (f *facts) value(name, eventType, second string, absent float64) float64 {
	if v := f.get(name, eventType, second); v != nil {
		return *v
	}
	return absent
}

// first returns the first second label of what was recorded, empty where nothing was.
func (f *facts) first(name, eventType string) string {
	if list := f.seconds[key{name, eventType, ""}]; len(list) > 0 {
		return list[0]
	}
	return ""
}

// report tells what the facts are.
func (f *facts) report(at time.Time) *Report {
	r := &Report{EvaluatedAt: at, All: f.subject(AllTypes)}
	for _, t := range f.types {
		r.Types = append(r.Types, f.subject(t))
	}
	return r
}

func (f *facts) subject(eventType string) Subject {
	s := Subject{EventType: eventType, Score: f.get("usage:health:type_score", eventType, ""), Mode: Unknown}
	s.Judged = f.get("usage:activity:judged", eventType, "") != nil
	switch n := f.get("usage:health:type_mode", eventType, ""); {
	case n == nil:
	case *n == -1:
		s.Mode = Unjudged
	case *n >= 0 && int(*n) < len(modes):
		s.Mode = modes[int(*n)]
	}
	if since := f.get("usage:health:since", eventType, ""); since != nil {
		s.Since = time.UnixMilli(int64(*since * 1000)).UTC()
	}
	s.Components = []Component{f.activity(eventType), f.failures(eventType), f.lag(eventType)}
	if eventType == AllTypes { // what is hit by which type is not counted
		s.Components = append(s.Components, f.policy())
	}
	if s.Mode == Unknown {
		s.Score = nil
		s.Reason = f.first("usage:health:unknown", eventType)
		s.Text = f.because(s.Reason)
		return s
	}
	s.Text = summary(&s) + f.also(eventType)
	if least := f.get("usage:health:mode_threshold", "", s.Mode); least != nil && s.Score != nil && *s.Score < *least {
		s.Text += " The mode gets worse when that has lasted for five minutes."
	}
	return s
}

// component begins a component with what they all have.
func (f *facts) component(name, eventType, unit string) Component {
	return Component{
		Name: name, Unit: unit, Weight: f.value("usage:health:weight", "", name, 0),
		Value: f.get("usage:health:component", eventType, name),
	}
}

// judged is component with what is observed, what is usual, and the band in which it is 1.
func (f *facts) judged(name, eventType, unit string) Component {
	c := f.component(name, eventType, unit)
	c.Observed = f.get("usage:health:observed", eventType, name)
	c.Expected = f.get("usage:health:usual", eventType, name)
	c.Upper = f.get("usage:health:good", eventType, name)
	if c.Upper != nil {
		least := f.value("usage:health:least", eventType, name, 0)
		c.Lower = &least
	}
	return c
}

// activity is looked at in the window that the rules have chosen.
func (f *facts) activity(eventType string) Component {
	c := f.component("activity", eventType, "events")
	if c.Value == nil {
		if c.Reason = f.first("usage:activity:unknown", eventType); c.Reason == "" {
			c.Reason = f.first("usage:health:unknown", eventType)
		}
		c.Text = f.because(c.Reason)
		return c
	}
	if c.Window = f.first("usage:activity:window", eventType); c.Window == "" {
		c.Window = "1h"
	}
	c.Observed = f.get("usage:activity:observed", eventType, c.Window)
	c.Expected = f.get("usage:activity:expected", eventType, c.Window)
	c.Lower = f.get("usage:activity:lower", eventType, c.Window)
	c.Upper = f.get("usage:activity:upper", eventType, c.Window)
	c.Text = activityText(&c, f.get("usage:activity:dropped", eventType, ""), f.get("usage:activity:rose", eventType, ""))
	if f.get("usage:activity:silent", eventType, "") != nil {
		c.Text = "Not one event in the last hour, in which yesterday at least 60 came. The past weeks are not known yet."
	}
	if eventType == AllTypes {
		c.Text += f.dropped()
	}
	return c
}

func (f *facts) failures(eventType string) Component {
	c := f.judged("failures", eventType, "ratio")
	c.Window = "15m"
	failed, ended := 0.0, 0.0
	for _, t := range f.types {
		if t == eventType || eventType == AllTypes {
			failed += f.value("usage:failures:increase15m", t, "", 0)
			ended += f.value("usage:outcomes:increase15m", t, "", 0)
		}
	}
	c.Text = failuresText(&c, failed, ended)
	return c
}

func (f *facts) lag(eventType string) Component {
	c := f.judged("lag", eventType, "seconds")
	c.Text = lagText(&c)
	return c
}

func (f *facts) policy() Component {
	c := f.judged("policy", AllTypes, "ratio")
	c.Window = "1h"
	c.Text = policyText(&c)
	return c
}
