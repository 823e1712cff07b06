// Package exporter takes what usaged counts to Prometheus: the usage families, which carry the lifetime totals of this
// data directory, and the families about the daemon itself, in one registry.
package exporter

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/VictoriaMetrics/metrics"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// setCollector exposes the counters and gauges of a VictoriaMetrics set, which is what hot paths count in, with the help
// texts that such a set doesn't have. Names that end in _total are counters, all others gauges.
type setCollector struct {
	set  *metrics.Set
	help map[string]string
}

// NewSetCollector returns a collector of a set. helps are the help texts by metric name; every name needs one.
func NewSetCollector(set *metrics.Set, helps ...map[string]string) prometheus.Collector {
	all := map[string]string{}
	for _, help := range helps {
		maps.Copy(all, help)
	}
	return &setCollector{set: set, help: all}
}

// Describe sends nothing: which families a set has is known only when it is read.
func (c *setCollector) Describe(chan<- *prometheus.Desc) {}

// Collect reads the set once.
func (c *setCollector) Collect(out chan<- prometheus.Metric) {
	var text bytes.Buffer
	c.set.WritePrometheus(&text)
	families, err := parse(text.String())
	if err != nil {
		families = c.salvage(text.String(), out)
	}
	for _, name := range slices.Sorted(maps.Keys(families)) {
		for _, m := range families[name].GetMetric() {
			out <- c.metric(name, m)
		}
	}
}

func parse(text string) (map[string]*dto.MetricFamily, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	return parser.TextToMetricFamilies(strings.NewReader(text))
}

// salvage parses a set line by line, and reports the lines that are faulty.
func (c *setCollector) salvage(text string, out chan<- prometheus.Metric) map[string]*dto.MetricFamily {
	all := map[string]*dto.MetricFamily{}
	for line := range strings.Lines(text) {
		families, err := parse(line)
		if err != nil {
			out <- prometheus.NewInvalidMetric(prometheus.NewInvalidDesc(err), fmt.Errorf("read the set of counters: %w", err))
			continue
		}
		for name, f := range families {
			if all[name] == nil {
				all[name] = f
				continue
			}
			all[name].Metric = append(all[name].Metric, f.GetMetric()...)
		}
	}
	return all
}

func (c *setCollector) metric(name string, m *dto.Metric) prometheus.Metric {
	var labels, values []string
	for _, l := range m.GetLabel() {
		labels, values = append(labels, l.GetName()), append(values, l.GetValue())
	}
	kind := prometheus.GaugeValue
	if strings.HasSuffix(name, "_total") {
		kind = prometheus.CounterValue
	}
	desc := prometheus.NewDesc(name, c.help[name], labels, nil)
	return constMetric(desc, kind, m.GetUntyped().GetValue(), values...)
}
