package journal

import (
	"errors"
	"fmt"

	"github.com/VictoriaMetrics/metrics"
	"github.com/prometheus/client_golang/prometheus"
)

// journalMetrics are what happens on the hot path, and what goes wrong. The state is read by callbacks.
type journalMetrics struct {
	appended, commits, refused, failures, stalls, boundsFailures, tornBytes, damagedEvents, damagedPlaces *metrics.Counter

	commitEvents, fsyncSeconds prometheus.Histogram
}

// Names of the counters and gauges.
const (
	metricBytes         = "usaged_journal_bytes"
	metricSegments      = "usaged_journal_segments"
	metricAvailable     = "usaged_journal_available"
	metricAppended      = "usaged_journal_appended_bytes_total"
	metricCommits       = "usaged_journal_commits_total"
	metricRefused       = "usaged_journal_append_failures_total"
	metricFailures      = "usaged_journal_outages_total"
	metricStalls        = "usaged_journal_stalls_total"
	metricBounds        = "usaged_journal_bounds_failures_total"
	metricTornBytes     = "usaged_journal_torn_tail_bytes_total"
	metricDamagedEvents = "usaged_journal_damaged_events_total"
	metricDamagedPlaces = "usaged_journal_damaged_places_total"
)

// Help returns a sentence for each metric that the journal keeps in Config.Metrics, which has no room for one.
func Help() map[string]string {
	return map[string]string{
		metricBytes:         "Bytes of durable records in the journal's segments.",
		metricSegments:      "Segment files of the journal.",
		metricAvailable:     "1 while the journal accepts events, 0 while it refuses them.",
		metricAppended:      "Bytes of records made durable, before compression.",
		metricCommits:       "Records made durable, each with one fsync shared by all that waited for it.",
		metricRefused:       "Batches and notes that were not accepted, because writing failed or hung or they were not valid.",
		metricFailures:      "Times that writing or syncing failed and the journal stopped accepting.",
		metricStalls:        "Times that the disk did not answer in time and the journal stopped accepting until it did.",
		metricBounds:        "Times that it could not be written down which is the newest segment. Until the next segment, one that gets lost may not be missed.",
		metricTornBytes:     "Bytes cut from the end of the journal when it was opened after a crash, and kept in damaged/. They were no whole record.",
		metricDamagedEvents: "Events found missing because of damage, each counted when a reader first meets the place.",
		metricDamagedPlaces: "Unreadable places found in the segments, each counted when a reader first meets it.",
	}
}

// newMetrics puts the metrics of j in place. The gauges of a journal opened earlier with the same set are replaced.
func newMetrics(cfg Config, j *Journal) (*journalMetrics, error) {
	set := cfg.Metrics
	m := &journalMetrics{
		appended:       set.GetOrCreateCounter(metricAppended),
		commits:        set.GetOrCreateCounter(metricCommits),
		refused:        set.GetOrCreateCounter(metricRefused),
		failures:       set.GetOrCreateCounter(metricFailures),
		stalls:         set.GetOrCreateCounter(metricStalls),
		boundsFailures: set.GetOrCreateCounter(metricBounds),
		tornBytes:      set.GetOrCreateCounter(metricTornBytes),
		damagedEvents:  set.GetOrCreateCounter(metricDamagedEvents),
		damagedPlaces:  set.GetOrCreateCounter(metricDamagedPlaces),
	}
	replaceGauge(set, metricBytes, func() float64 {
		_, bytes := j.table.sums()
		return float64(bytes)
	})
	replaceGauge(set, metricSegments, func() float64 {
		segments, _ := j.table.sums()
		return float64(segments)
	})
	replaceGauge(set, metricAvailable, func() float64 {
		if j.Ready() != nil {
			return 0
		}
		return 1
	})
	var err error
	if m.commitEvents, err = registered(cfg.Registerer, prometheus.HistogramOpts{
		Name:    "usaged_journal_commit_events",
		Help:    "Events per commit, that is how many share one fsync.",
		Buckets: prometheus.ExponentialBuckets(1, 4, 9),
	}); err != nil {
		return nil, err
	}
	m.fsyncSeconds, err = registered(cfg.Registerer, prometheus.HistogramOpts{
		Name:    "usaged_journal_fsync_duration_seconds",
		Help:    "Duration of the fsync of one commit.",
		Buckets: prometheus.ExponentialBuckets(0.0001, 2.5, 12),
	})
	return m, err
}

func replaceGauge(set *metrics.Set, name string, f func() float64) {
	set.UnregisterMetric(name)
	set.NewGauge(name, f)
}

// registered returns a histogram with native buckets beside the classic ones. One that is registered already is shared.
func registered(reg prometheus.Registerer, opts prometheus.HistogramOpts) (prometheus.Histogram, error) {
	opts.NativeHistogramBucketFactor = 1.1
	opts.NativeHistogramMaxBucketNumber = 160
	h := prometheus.NewHistogram(opts)
	if reg == nil {
		return h, nil
	}
	err := reg.Register(h)
	if twice, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		if existing, ok := twice.ExistingCollector.(prometheus.Histogram); ok {
			return existing, nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("register %s: %w", opts.Name, err)
	}
	return h, nil
}
