package exporter

import (
	"fmt"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// Guard returns a collector whose panics are invalid metrics, which the registry reports and leaves out. Without it a panic of one
// collector would end the process, since a registry runs them in goroutines of its own.
func Guard(c prometheus.Collector) prometheus.Collector { return guard{c} }

type guard struct{ prometheus.Collector }

// Collect implements prometheus.Collector.
func (g guard) Collect(out chan<- prometheus.Metric) {
	defer func() {
		if v := recover(); v != nil {
			err := fmt.Errorf("the collector %T panicked: %v", g.Collector, v)
			out <- prometheus.NewInvalidMetric(prometheus.NewInvalidDesc(err), err)
		}
	}()
	g.Collector.Collect(out)
}

// constMetric returns a metric whatever is in its labels, of which some come from clients and files: what is not UTF-8 is replaced.
func constMetric(desc *prometheus.Desc, kind prometheus.ValueType, value float64, labels ...string) prometheus.Metric {
	for i := range labels {
		labels[i] = strings.ToValidUTF8(labels[i], "\uFFFD")
	}
	m, err := prometheus.NewConstMetric(desc, kind, value, labels...)
	if err != nil {
		return prometheus.NewInvalidMetric(desc, err)
	}
	return m
}
