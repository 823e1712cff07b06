package remotewrite

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// Names of the metrics. Each has a label remote.
const (
	samplesTotal      = "usaged_remote_write_samples_total"
	exemplarsTotal    = "usaged_remote_write_exemplars_total"
	requestsTotal     = "usaged_remote_write_requests_total"
	readFailuresTotal = "usaged_remote_write_read_failures_total"
	sentUntilSeconds  = "usaged_remote_write_sent_until_timestamp_seconds"
)

// Help returns the help texts of the metrics, by name.
func Help() map[string]string {
	return map[string]string{
		samplesTotal:      "Samples, histograms included, that a receiver took (sent), or that it refused and that will not be sent again (refused).",
		exemplarsTotal:    "Exemplars that went with a request (sent), were refused with it (refused), or were too many to wait for one (dropped).",
		requestsTotal:     "Requests by what became of them: sent, refused, or failed and to be repeated.",
		readFailuresTotal: "Failed attempts at reading from the local TSDB, or at noting what was sent, each repeated.",
		sentUntilSeconds:  "Time up to which a receiver has everything. The distance to now is the backlog, which waits in the local TSDB.",
	}
}

// Outcomes, as metrics name them.
const (
	outcomeSent    = "sent"
	outcomeRefused = "refused"
	outcomeDropped = "dropped"
	outcomeFailed  = "failed"
)

// writerMetrics are the metrics of all senders. Their label is bounded by the configuration.
type writerMetrics struct {
	samples, exemplars, requests *prometheus.CounterVec
	sentUntil                    *prometheus.GaugeVec
	readFailures                 *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) (*writerMetrics, error) {
	counter := func(name string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: Help()[name]}, append([]string{"remote"}, labels...))
	}
	m := &writerMetrics{
		samples:      counter(samplesTotal, "outcome"),
		exemplars:    counter(exemplarsTotal, "outcome"),
		requests:     counter(requestsTotal, "outcome"),
		readFailures: counter(readFailuresTotal),
		sentUntil:    prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: sentUntilSeconds, Help: Help()[sentUntilSeconds]}, []string{"remote"}),
	}
	for _, c := range []prometheus.Collector{m.samples, m.exemplars, m.requests, m.sentUntil, m.readFailures} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return m, nil
}

// begin makes the series of an endpoint, so that their rates begin at zero.
func (m *writerMetrics) begin(remote string) {
	for _, outcome := range []string{outcomeSent, outcomeRefused} {
		m.samples.WithLabelValues(remote, outcome)
		m.exemplars.WithLabelValues(remote, outcome)
		m.requests.WithLabelValues(remote, outcome)
	}
	m.exemplars.WithLabelValues(remote, outcomeDropped)
	m.requests.WithLabelValues(remote, outcomeFailed)
	m.readFailures.WithLabelValues(remote)
}

// forget ends the series that say nothing without their sender. The counters stay.
func (m *writerMetrics) forget(remote string) {
	m.sentUntil.DeleteLabelValues(remote)
}
