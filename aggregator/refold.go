package aggregator

import (
	"errors"
	"math"

	"usaged/aggregator/ledger"
	"usaged/aggregator/meter"
)

// refold folds events again for their lifetime totals alone, those of all producers and partitions at once.
type refold struct {
	*counting
	folds map[refoldKey]*meter.Folder
	// epoch is that of the event before, which goes up to through.
	epoch   *epoch
	through uint64
	err     error
}

// refoldKey names the events of one fold.
type refoldKey struct {
	of    ledger.Of
	epoch *epoch
}

// folder returns the fold of an event, nil after an error. The events come in the order of the journal.
func (r *refold) folder(partition int, seq uint64) *meter.Folder {
	if r.epoch == nil || seq > r.through {
		if r.epoch, r.through, r.err = r.history.at(seq); r.err != nil {
			return nil
		}
	}
	identity := r.identity
	key := refoldKey{ledger.Of{Producer: identity.Producers[identity.producerOf(partition, seq)].ID, Partition: partition}, r.epoch}
	f := r.folds[key]
	if f == nil {
		f = meter.NewFolder(r.epoch.Meters, r.labels.Labels)
		f.Reset(math.MaxInt32) // every day has expired, so that nothing is added up by day
		r.folds[key] = f
	}
	return f
}

// addTo adds what was folded to a checkpoint.
func (r *refold) addTo(cp *checkpoint) error {
	for key, f := range r.folds {
		ledger.AddTotals(cp.totals(key.of.Producer, key.of.Partition, r.store.Partitions()), f.Delta().Totals, cp.Accepted.Admit)
	}
	return errors.Join(r.err, r.labels.save())
}
