package meter

import (
	"regexp"
	"slices"
	"strings"

	"usaged/aggregator/event"
	"usaged/aggregator/yamlfile"
)

// Metric exports a meter's value as a Prometheus counter with metadata keys as labels.
type Metric struct {
	// Name is the family: usage_…_total.
	Name string `yaml:"name" json:"name"`
	// Help says what is counted. Where it is empty the meter's description does.
	Help string `yaml:"help" json:"help,omitempty"`
	// Labels are metadata keys. Where an event lacks one its value is Unknown.
	Labels []string `yaml:"labels" json:"labels,omitempty"`
}

// MaxMetricLabels bounds the labels of one metric.
const MaxMetricLabels = 8

// Family is the metric's family of lifetime totals: one with other labels is another. Its A has the values of the labels,
// see Values.
func (m *Metric) Family() string {
	return strings.Join(append([]string{m.Name}, m.Labels...), ":")
}

var (
	metricForm = regexp.MustCompile(`^usage_[a-z0-9]+(_[a-z0-9]+)*_total$`)
	labelForm  = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)
)

// maxMetricNameBytes is where a name stops being readable.
const maxMetricNameBytes = 100

// The metrics that lifetime totals are exported as.
const (
	MetricEvents       = "usage_events_total"
	MetricLate         = "usage_late_events_total"
	MetricOutcomes     = "usage_event_outcomes_total"
	MetricLateOutcomes = "usage_late_event_outcomes_total"
	MetricSources      = "usage_source_events_total"
	MetricTokens       = "usage_llm_tokens_total"
	MetricPolicies     = "usage_policy_hits_total"
	MetricLatePolicies = "usage_late_policy_hits_total"
	MetricRows         = "usage_sql_rows_total"
)

// CappedMetrics are those whose labels clients fill. What has no room is counted once, by the metric that shows it best.
var CappedMetrics = []string{MetricEvents, MetricSources, MetricTokens, MetricPolicies}

// builtinMetrics are the names that a meter's metric cannot have.
var builtinMetrics = []string{
	MetricEvents, MetricLate, MetricOutcomes, MetricLateOutcomes, MetricSources, MetricTokens, MetricPolicies, MetricLatePolicies, MetricRows,
}

// checkMetric checks a meter's metric. taken has the lines of the metrics before it by their names.
func checkMetric(f *yamlfile.File, located *located, taken map[string]int) {
	m := located.Metric
	if m == nil {
		return
	}
	node := yamlfile.Lookup(located.node, "metric")
	line := func(field string) int { return yamlfile.Line(node, field) }
	switch before, again := taken[m.Name]; {
	case m.Name == "":
		f.Fault(line("name"), "the metric has no name")
	case !metricForm.MatchString(m.Name) || len(m.Name) > maxMetricNameBytes:
		f.Fault(line("name"), "the metric's name %q is not usage_…_total, of at most %d of a-z, 0-9 and single _", m.Name, maxMetricNameBytes)
	case slices.Contains(builtinMetrics, m.Name):
		f.Fault(line("name"), "the metric's name %q is taken by usaged itself", m.Name)
	case again:
		f.Fault(line("name"), "the metric's name %q is taken by the metric of line %d", m.Name, before)
	}
	taken[m.Name] = line("name")
	m.checkLabels(func(format string, args ...any) { f.Fault(line("labels"), format, args...) })
}

func (m *Metric) checkLabels(fault func(format string, args ...any)) {
	if len(m.Labels) > MaxMetricLabels {
		fault("the metric has %d labels: at most %d", len(m.Labels), MaxMetricLabels)
	}
	for i, label := range m.Labels {
		switch {
		case !labelForm.MatchString(label) || strings.HasPrefix(label, "__") || len(label) > maxMetricNameBytes:
			fault("%q cannot be a label: its name is a letter or _ followed by a-z, A-Z, 0-9 and _, does not begin with __, and has at most %d bytes",
				label, maxMetricNameBytes)
		case label == "le" || label == "quantile":
			fault("%q cannot be a label of a counter: Prometheus uses it for histograms and summaries", label)
		case slices.Contains(m.Labels[:i], label):
			fault("the label %q is given twice", label)
		}
	}
}

// labelEscapes are the bytes that separate the values of a label set, and escape.
var labelEscapes = [256]string{'&': "%26", '%': "%25"}

// appendLabel appends a value to a label set: values with & between them, and %26 and %25 for & and %.
func appendLabel(set, value []byte) []byte {
	for _, b := range value {
		if escape := labelEscapes[b]; escape != "" {
			set = append(set, escape...)
		} else {
			set = append(set, b)
		}
	}
	return set
}

// LabelSet is the label set of an event, as the A of its series. value gives the event's metadata.
func (m *Metric) LabelSet(value func(key string) []byte) string {
	var set []byte
	for i, key := range m.Labels {
		if i > 0 {
			set = append(set, '&')
		}
		set = appendLabel(set, known(value(key)))
	}
	return string(set)
}

var unescapeLabel = strings.NewReplacer("%26", "&", "%25", "%")

// Values reads the values of the labels from the A of a series. Where the label set had no room all are event.Other.
func (m *Metric) Values(set string) []string {
	if len(m.Labels) == 0 {
		return nil
	}
	values := strings.SplitN(set, "&", len(m.Labels))
	for i := range values {
		values[i] = unescapeLabel.Replace(values[i])
	}
	return values
}

// other is the label set of what has no room.
func (m *Metric) other() string {
	return strings.Join(slices.Repeat([]string{event.Other}, len(m.Labels)), "&")
}
