package aggregator

import (
	"fmt"

	"github.com/VictoriaMetrics/metrics"
	"github.com/prometheus/client_golang/prometheus"

	"usaged/aggregator/meter"
	"usaged/aggregator/store"
)

// aggregatorMetrics are the applier's. Counters and gauges live in a set, see Help.
type aggregatorMetrics struct {
	set                                                        *metrics.Set
	events, duplicates, badValues, expired, unverified         *metrics.Counter
	overflowTypes, overflowReferences                          *metrics.Counter
	storeErrors, tornDays, checkpointErrors, rewinds, rebuilds *metrics.Counter
	readErrors, recounts                                       *metrics.Counter
	doubtful, identityAlarms                                   *metrics.Counter
	storeAhead, retiredEarly, stopped                          *metrics.Gauge
	applyDuration                                              prometheus.Histogram
}

var help = map[string]string{
	"usaged_applied_events_total":       "Events applied to the store and counted, by this process.",
	"usaged_duplicate_events_total":     "Events applied to the store as duplicates by id, by this process.",
	"usaged_bad_values_total":           "Metadata values that should have been whole numbers from 0 to the meter's limit, and added 0.",
	"usaged_expired_events_total":       "Events that were applied after their day had left the retention window; they add to lifetime totals only.",
	"usaged_ids_unverified_total":       "Events counted without a check for duplicates, since they were applied more than 48 hours after their acceptance.",
	"usaged_overflow_total":             "Events (kind types) and sums (kind references) counted under __other__ because a limit per day was reached.",
	"usaged_label_overflow_total":       "Additions to a metric of usage that went under the label value __other__ because the label has as many values as it may, by metric.",
	"usaged_store_counts_removed_total": "Counts of an event type on a day that were removed because its users had expired earlier.",
	"usaged_store_errors_total":         "Attempts to read or write the store that failed and are repeated.",
	"usaged_apply_read_errors_total":    "Attempts to read the journal for the store that failed, for a reason that may pass, and are repeated.",
	"usaged_apply_stopped_partitions":   "Partitions of the store that take no events since the journal could not be read several times in a row.",
	"usaged_apply_partitions":           "Partitions of the store by what their worker does: loading what the store holds, catching_up with the journal, live, or fenced by another process.",
	"usaged_ledger_unbalanced":          "1 where the accepted events are not the sum of counted, duplicate, pending and damaged ones.",
	"usaged_ledger_recounts_total":      "Times that the ledger was counted anew from the store and the journal because it did not balance.",
	"usaged_rewinds_total":              "Times that the store had lost what was applied to it, so that it was applied again from the journal.",
	"usaged_rebuilt_events_total":       "Events of the journal that were counted later than when they were applied: by a meter, because a rebuild was asked for, or in a day that was restored.",
	"usaged_retention_incomplete":       "Days that can be asked for, were deleted while fewer days were kept, and could not be counted again whole from the journal.",
	"usaged_store_ahead":                "1 where the store held events that this journal does not: the data directory was restored from a snapshot or copied.",
	"usaged_doubtful_events_total":      "Events that may have been counted twice: by this daemon, and by one that has run on a block-level copy of its disk.",
	"usaged_identity_alarms_total":      "Starts of this process that found the data directory copied, restored, or without a part of its journal or identity.",
	"usaged_fenced":                     "1 where another process has taken over this producer id and this one has stopped applying.",
	"usaged_checkpoint_errors_total":    "Checkpoints that could not be written.",
	"usaged_journal_retired_early":      "1 once this process has deleted events inside the retention window because of the size limit.",
	"usaged_apply_lag_seconds":          "Age of the oldest event that has been accepted and not applied, 0 where there is none.",
	"usaged_apply_pending_events":       "Events that have been accepted and not applied.",
	"usaged_store_connected":            "1 once the store has been reached and applying has begun.",
}

// Help has the help texts of the metrics in the set.
func Help() map[string]string { return help }

func newMetrics(set *metrics.Set, reg prometheus.Registerer) (*aggregatorMetrics, error) {
	m := &aggregatorMetrics{
		set:                set,
		events:             set.GetOrCreateCounter("usaged_applied_events_total"),
		duplicates:         set.GetOrCreateCounter("usaged_duplicate_events_total"),
		badValues:          set.GetOrCreateCounter("usaged_bad_values_total"),
		expired:            set.GetOrCreateCounter("usaged_expired_events_total"),
		unverified:         set.GetOrCreateCounter("usaged_ids_unverified_total"),
		overflowTypes:      set.GetOrCreateCounter(`usaged_overflow_total{kind="types"}`),
		overflowReferences: set.GetOrCreateCounter(`usaged_overflow_total{kind="references"}`),
		tornDays:           set.GetOrCreateCounter("usaged_store_counts_removed_total"),
		storeErrors:        set.GetOrCreateCounter("usaged_store_errors_total"),
		checkpointErrors:   set.GetOrCreateCounter("usaged_checkpoint_errors_total"),
		rewinds:            set.GetOrCreateCounter("usaged_rewinds_total"),
		rebuilds:           set.GetOrCreateCounter("usaged_rebuilt_events_total"),
		doubtful:           set.GetOrCreateCounter("usaged_doubtful_events_total"),
		identityAlarms:     set.GetOrCreateCounter("usaged_identity_alarms_total"),
		storeAhead:         set.GetOrCreateGauge("usaged_store_ahead", nil),
		readErrors:         set.GetOrCreateCounter("usaged_apply_read_errors_total"),
		recounts:           set.GetOrCreateCounter("usaged_ledger_recounts_total"),
		stopped:            set.GetOrCreateGauge("usaged_apply_stopped_partitions", nil),
		retiredEarly:       set.GetOrCreateGauge("usaged_journal_retired_early", nil),
		applyDuration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:                           "usaged_apply_duration_seconds",
			Help:                           "Duration of applying one batch to one partition of the store.",
			Buckets:                        []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
			NativeHistogramBucketFactor:    1.1,
			NativeHistogramMaxBucketNumber: 160,
		}),
	}
	for _, name := range meter.CappedMetrics {
		m.labelOverflow(name)
	}
	if reg != nil {
		if err := reg.Register(m.applyDuration); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return m, nil
}

// registerGauges adds what is asked for when somebody looks.
func (a *Aggregator) registerGauges(set *metrics.Set) {
	set.NewGauge("usaged_apply_lag_seconds", func() float64 { return a.applier.lag().Seconds() })
	set.NewGauge("usaged_apply_pending_events", func() float64 { return float64(a.accounts.Pending()) })
	set.NewGauge("usaged_ledger_unbalanced", func() float64 {
		_, _, wrong := a.accounts.Imbalance()
		return boolValue(wrong)
	})
	for state, name := range partitionStates {
		set.NewGauge(fmt.Sprintf("usaged_apply_partitions{state=%q}", name), func() float64 { return float64(a.applier.inState(partitionState(state))) })
	}
	set.NewGauge("usaged_retention_incomplete", func() float64 {
		if r := a.restored(); r != nil {
			return float64(len(r.Incomplete))
		}
		return 0
	})
	set.NewGauge("usaged_fenced", func() float64 { return boolValue(a.applier.isFenced()) })
	set.NewGauge("usaged_store_connected", func() float64 { return boolValue(a.accounts.Known()) })
}

func (m *aggregatorMetrics) applied(stats meter.Stats, overflow store.Overflow, labels map[string]uint64, unverified uint64) {
	m.events.AddInt64(int64(stats.Events))
	m.duplicates.AddInt64(int64(stats.Duplicates))
	m.badValues.AddInt64(int64(stats.BadValues))
	m.expired.AddInt64(int64(stats.Expired))
	m.unverified.AddInt64(int64(unverified))
	for name, n := range labels {
		m.labelOverflow(name).AddInt64(int64(n))
	}
	m.overflowTypes.AddInt64(int64(overflow.Types))
	m.overflowReferences.AddInt64(int64(overflow.References))
}

// rebuilt counts what a rebuild has applied.
func (m *aggregatorMetrics) rebuilt(events int, stats meter.Stats, overflow store.Overflow) {
	m.rebuilds.AddInt64(int64(events))
	m.badValues.AddInt64(int64(stats.BadValues))
	m.overflowReferences.AddInt64(int64(overflow.References))
}

// labelOverflow counts what a metric of usage has under __other__ for want of room.
func (m *aggregatorMetrics) labelOverflow(name string) *metrics.Counter {
	return m.set.GetOrCreateCounter(fmt.Sprintf("usaged_label_overflow_total{metric=%q}", name))
}

func boolValue(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
