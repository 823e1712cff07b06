package aggregator

import (
	"context"

	"usaged/aggregator/event"
	"usaged/aggregator/meter"
	"usaged/aggregator/retention"
	"usaged/aggregator/store"
)

// Retention is how many days can be read and are kept, and what is going to be deleted because fewer are asked for.
type Retention struct {
	retention.State
	// From and To are the days with rollups that will go, Events how many events these have. To is before From where there are
	// none.
	From, To event.Day
	Events   uint64
	// Raw is how many events will leave the journal.
	Raw uint64
	// Restored is how far days are that are counted again from the journal, nil where there are none.
	Restored *Restored
}

// Retention says how many days are kept, and what is going to be deleted. It asks the store only where something is.
func (a *Aggregator) Retention(ctx context.Context) (*Retention, error) {
	r := &Retention{State: retention.State{Days: a.cfg.Retention, Kept: a.keep.keptDays()}, To: -1}
	if a.cfg.Policy != nil {
		r.State = a.cfg.Policy.State()
	}
	r.Restored = a.restored()
	if !r.Pending() {
		return r, nil
	}
	wait := max(0, r.Due.Sub(a.cfg.Deletion()))
	for _, seg := range a.journal.Segments() {
		if seg.Sealed && seg.Newest.Before(a.keep.journalDeadline(r.Days).Add(wait)) {
			r.Raw += seg.Last + 1 - seg.First
		}
	}
	first := a.keep.oldestStored(r.Kept)
	var days []event.Day
	for day := first; day < a.keep.oldestStored(r.Days); day++ {
		days = append(days, day)
	}
	types, err := a.store.Types(ctx, days)
	if err != nil {
		return nil, err
	}
	r.From = first
	r.To = first - 1
	for i, of := range types {
		if len(of) == 0 {
			continue
		}
		if r.To < r.From {
			r.From = days[i]
		}
		r.To = days[i]
		for _, n := range of {
			r.Events += n
		}
	}
	return r, nil
}

// ApplyRetention has what is not to be kept any more deleted now, instead of when it is due.
func (a *Aggregator) ApplyRetention(ctx context.Context) (*Retention, error) {
	if a.cfg.Policy != nil {
		if _, err := a.cfg.Policy.Apply(); err != nil {
			return nil, err
		}
	}
	return a.Retention(ctx)
}

// announceExpiry says in the log, once for each time that it is decided, what is going to be deleted.
func (p *applier) announceExpiry(ctx context.Context) {
	if p.keep.policy == nil || p.keep.policy.State().Due.Equal(p.announced) {
		return
	}
	r, err := p.retention(ctx)
	if err != nil || !r.Pending() || r.Due.Equal(p.announced) {
		return // where the store is away it is said in a minute
	}
	p.announced = r.Due
	if r.To < r.From && r.Raw == 0 {
		return // there is nothing
	}
	p.log.Warn("--retention.days has been lowered; what is beyond it will be deleted when it is due: raise it again to keep that, or run `usagectl retention apply` "+
		"to have it deleted now", "due", r.Due, "from", r.From.String(), "to", r.To.String(), "events", r.Events, "raw_events", r.Raw)
}

// extend has the days that are in a store whose days expire by themselves kept for as long as the present retention says: after a start,
// because it may have been raised, and each day, because a replica with a lower one may have written some.
func (p *applier) extend(ctx context.Context) {
	ext, ok := p.store.(store.Extender)
	if !ok || p.extended == p.day {
		return
	}
	var rollups []meter.Rollup
	for _, m := range p.history.current() {
		rollups = append(rollups, meter.MeterRollup(m.Key(), meter.ByUser), meter.MeterRollup(m.Key(), meter.ByReference))
	}
	var days []event.Day
	for day := p.day - event.Day(p.keep.writtenDays()) + 1; day <= p.day+1; day++ { // senders may be ahead of midnight
		days = append(days, day)
	}
	removed, err := ext.Extend(ctx, days, rollups)
	if removed > 0 {
		p.metrics.tornDays.AddInt64(int64(removed))
		p.log.Error("the users of event types had expired before the counts of the same day, which are removed, so that answers agree; their events "+
			"are missing in the figures of these days: empty the store to have all counted again from the journals", "types", removed)
	}
	if err != nil {
		p.metrics.storeErrors.Inc()
		p.log.Warn("the expiry of days in the store could not be extended; retrying in a minute", "err", err)
		return
	}
	p.extended = p.day
}
