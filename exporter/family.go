package exporter

import (
	"github.com/prometheus/client_golang/prometheus"

	"usaged/aggregator/event"
	"usaged/aggregator/meter"
)

// families are the families of one scrape, by the family of their lifetime totals.
type families map[string]*family

// family is a metric and the values of its series.
type family struct {
	desc   *prometheus.Desc
	labels func(meter.Series) []string // the values of a series' labels
	values map[meter.Series]uint64
}

// since ends the help of the counters.
const since = " Counted since the data directory was made, without duplicates."

func newFamilies(meters func() []meter.Meter) families {
	f := families{}
	none := func(meter.Series) []string { return nil }
	one := func(s meter.Series) []string { return []string{s.A} }
	two := func(s meter.Series) []string { return []string{s.A, s.B} }
	f.define(meter.FamilyEvents, meter.MetricEvents, "Events, by type."+since, one, "event_type")
	f.define(meter.FamilyLate, meter.MetricLate, "Events created more than an hour before they were accepted, by type."+since, one, "event_type")
	f.define(meter.FamilyOutcomes, meter.MetricOutcomes, "Events whose metadata have an outcome that is success or failure, by type and outcome."+since,
		two, "event_type", "outcome")
	f.define(meter.FamilyLateOutcomes, meter.MetricLateOutcomes, "What is in usage_event_outcomes_total of events created more than an hour before they were accepted."+since,
		two, "event_type", "outcome")
	f.define(meter.FamilySources, meter.MetricSources, "Events by source, unknown where they name none."+since, one, "source")
	f.define(meter.FamilyTokens, meter.MetricTokens, "LLM tokens by model, unknown where none is named, and by kind: prompt, completion, and other for what total_tokens has beyond the two."+since,
		two, "model", "kind")
	f.define(meter.FamilyPolicies, meter.MetricPolicies, "Events of the type sql_generation by each of their policy_filters."+since, one, "policy")
	f.define(meter.FamilyLatePolicies, meter.MetricLatePolicies, "What is in usage_policy_hits_total, of all policies, of events created more than an hour before they were accepted."+since, none)
	f.define(meter.FamilyRows, meter.MetricRows, "Rows that queries returned: the sum of rows over events of the type sql_execution."+since, none)
	for _, t := range event.KnownTypes { // so that their rates begin at zero
		f.add(meter.Series{Family: meter.FamilyEvents, A: t}, 0)
		f.add(meter.Series{Family: meter.FamilyOutcomes, A: t, B: meter.OutcomeSuccess}, 0)
	}
	f.add(meter.Series{Family: meter.FamilyRows}, 0)
	f.add(meter.Series{Family: meter.FamilyLatePolicies}, 0)
	if meters != nil {
		f.defineMetrics(meters())
	}
	return f
}

func (f families) define(name, metric, help string, labels func(meter.Series) []string, keys ...string) {
	f[name] = &family{desc: prometheus.NewDesc(metric, help, keys, nil), labels: labels, values: map[meter.Series]uint64{}}
}

// defineMetrics defines the metrics of meters.
func (f families) defineMetrics(meters []meter.Meter) {
	for i := range meters {
		m := meters[i].Metric
		if m == nil {
			continue
		}
		help := m.Help
		if help == "" {
			help = meters[i].Description
		}
		if help == "" {
			help = "The meter " + meters[i].Name + "."
		}
		f.define(m.Family(), m.Name, help, func(s meter.Series) []string { return m.Values(s.A) }, m.Labels...)
		if len(m.Labels) == 0 {
			f.add(meter.Series{Family: m.Family()}, 0)
		}
	}
}

var (
	outcomes   = []string{meter.OutcomeSuccess, meter.OutcomeFailure}
	tokenKinds = meter.TokenKinds[:]
)

// add adds a lifetime total. One of a family that is not defined, as of a metric that is gone, is not exported.
func (f families) add(s meter.Series, n uint64) {
	fam := f[s.Family]
	if fam == nil {
		return
	}
	var siblings []string // of a label whose values are known
	switch s.Family {
	case meter.FamilyEvents:
		f[meter.FamilyLate].values[meter.Series{Family: meter.FamilyLate, A: s.A}] += 0
	case meter.FamilyOutcomes:
		siblings = outcomes
		for _, b := range outcomes {
			f[meter.FamilyLateOutcomes].values[meter.Series{Family: meter.FamilyLateOutcomes, A: s.A, B: b}] += 0
		}
	case meter.FamilyTokens:
		siblings = tokenKinds
	}
	for _, b := range siblings {
		fam.values[meter.Series{Family: s.Family, A: s.A, B: b}] += 0
	}
	fam.values[s] += n
}

func (f families) collect(out chan<- prometheus.Metric) {
	for _, fam := range f {
		for s, n := range fam.values {
			out <- constMetric(fam.desc, prometheus.CounterValue, float64(n), fam.labels(s)...)
		}
	}
}
