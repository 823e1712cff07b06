package aggregator

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"usaged/aggregator/durable"
	"usaged/aggregator/event"
	"usaged/aggregator/journal"
	"usaged/aggregator/meter"
	"usaged/aggregator/store"
)

// restores says which days were deleted from the store and are counted again from the journal, because more days are asked for than
// were kept: the file <data>/restores.json. It is safe for concurrent use.
//
// An order names days that held nothing when it was made, and the last event that had been accepted by then. From then on each event is
// added to a day by one of two:
//
//   - by the rebuild of the order, see rebuilder, where the day is one of the order's and the event was accepted before it;
//   - by the applier otherwise, also where it counts an event again because the store has lost something.
//
// So no event is added twice, whatever is lost, killed or repeated. Lifetime totals, claims and verdicts are the applier's in any case.
// An order is made when this process has taken over its producers in the store, so that no batch of an earlier one can take
// effect any more, and is durable before anything is folded.
type restores struct {
	path string

	mu   sync.Mutex
	file restoresFile // its orders are replaced, never changed
}

// restoresFile is the form of restores.json.
type restoresFile struct {
	Orders []restoreOrder `json:"orders"`
}

// restoreOrder asks for the events up to Through of some days to be counted again.
type restoreOrder struct {
	// ID tells the producers of this order from all others. It is random, since a day may be deleted and restored more than once.
	ID      string      `json:"id"`
	Through uint64      `json:"through"`
	Days    []event.Day `json:"days"`
	// Incomplete are days whose events may have left the journal, or be counted by another replica alone.
	Incomplete []event.Day `json:"incomplete_days,omitempty"`
	// Meters are those whose past had been rebuilt, or was about to be, and up to which event.
	Meters []rebuiltMeter `json:"meters,omitempty"`
}

// rebuiltMeter is a meter that counts events which were accepted before it was put in force.
type rebuiltMeter struct {
	Meter   meter.Meter `json:"meter"`
	Through uint64      `json:"through"`
}

var restoresFormat = durable.Format{Version: 1, Plain: -1}

// openRestores reads the file. Where it is missing there are no orders.
func openRestores(dir string) (*restores, error) {
	r := &restores{path: filepath.Join(dir, "restores.json")}
	_, err := restoresFormat.LoadJSON(r.path, &r.file)
	switch {
	case err == nil, errors.Is(err, os.ErrNotExist):
		return r, nil
	case errors.Is(err, durable.ErrVersion):
		return nil, fmt.Errorf("read which days are restored: %w: start the newer usaged that wrote it", err)
	default:
		return nil, fmt.Errorf("read which days are restored: %w: restore it from a backup, or delete it, and the store too so that all is counted again", err)
	}
}

// orders returns the orders in force.
func (r *restores) orders() []restoreOrder {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.file.Orders
}

// excluded returns the days to which the applier does not add an event, because a restore does, and the last event of which that is
// true.
func (r *restores) excluded(seq, through uint64) (days []event.Day, last uint64) {
	for _, o := range r.orders() {
		if seq <= o.Through {
			days, through = append(days, o.Days...), min(through, o.Through)
		}
	}
	return days, through
}

// countsMeter says whether a restore, and not the rebuild of the meter, adds an event of a day to a meter.
func (r *restores) countsMeter(seq uint64, day event.Day, key string) bool {
	for _, o := range r.orders() {
		if seq <= o.Through && slices.Contains(o.Days, day) {
			return slices.ContainsFunc(o.Meters, func(m rebuiltMeter) bool { return m.Meter.Key() == key && seq <= m.Through })
		}
	}
	return false
}

// add makes an order durable. Its days hold nothing, so whatever other orders have added to them is gone, and these have them no
// more. Orders about events that have left the journal before start are dropped.
func (r *restores) add(order restoreOrder, start uint64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var next restoresFile
	for _, o := range r.file.Orders {
		taken := func(day event.Day) bool { return slices.Contains(order.Days, day) }
		o.Days, o.Incomplete = slices.DeleteFunc(slices.Clone(o.Days), taken), slices.DeleteFunc(slices.Clone(o.Incomplete), taken)
		if len(o.Days) > 0 && o.Through >= start {
			next.Orders = append(next.Orders, o)
		}
	}
	next.Orders = append(next.Orders, order)
	if err := restoresFormat.SaveJSON(r.path, next, 0o640); err != nil {
		return fmt.Errorf("write %s: %w", r.path, err)
	}
	r.file = next
	return nil
}

// restorePrefix begins the keys of the producers of restores. No key of a meter has a dash there.
const restorePrefix = "days-"

func (o *restoreOrder) key() string { return restorePrefix + o.ID }

// orderRestore has the days restored that were deleted while fewer days were kept than are asked for now. It comes after this process
// has taken over its producers, and before anything is folded.
func (p *applier) orderRestore(ctx context.Context) error {
	policy := p.keep.policy
	if policy == nil || policy.Raised() == 0 {
		return nil
	}
	order, err := p.newRestore(ctx, policy.Raised())
	if err != nil {
		return err
	}
	if order != nil {
		if err := p.restores.add(*order, p.journal.Start()); err != nil {
			return fmt.Errorf("order the restore of days: %w", err)
		}
		p.log.Info("more days are asked for than were kept, or it is not known how many were; those that are gone from the store are counted again "+
			"from the journal",
			"days", len(order.Days), "from", order.Days[0].String(), "to", order.Days[len(order.Days)-1].String())
		if n := len(order.Incomplete); n > 0 {
			p.log.Warn("some days cannot be restored whole: some of their events may have left the journal, or another replica may have restored its own "+
				"part of them first", "days", n, "from", order.Incomplete[0].String(), "to", order.Incomplete[n-1].String())
		}
		p.ordered()
	}
	policy.Restored()
	return nil
}

// newRestore returns the order for what is gone beyond so many days, nil where there is nothing to be done.
func (p *applier) newRestore(ctx context.Context, raised int) (*restoreOrder, error) {
	start, through := p.journal.Start(), p.journal.End()
	today := event.DayOf(p.now())
	var days []event.Day
	for day := p.keep.oldestWritten(); day <= today-event.Day(raised); day++ {
		days = append(days, day)
	}
	if through < start || len(days) == 0 {
		return nil, nil
	}
	versions, err := p.store.Versions(ctx, days)
	if err != nil {
		return nil, fmt.Errorf("look which days are gone from the store: %w", err)
	}
	begins, err := p.journalBegins(ctx, start)
	if err != nil {
		return nil, err
	}
	otherRestored, err := p.otherRestored(ctx)
	if err != nil {
		return nil, err
	}
	order := &restoreOrder{ID: strings.ToLower(rand.Text()), Through: through}
	for i, day := range days {
		gone := versions[i] == ""
		if gone {
			order.Days = append(order.Days, day)
		}
		if gone && day <= begins || !gone && otherRestored && day+event.Day(raised)+1 < today {
			order.Incomplete = append(order.Incomplete, day)
		}
	}
	if len(order.Days) == 0 {
		return nil, nil
	}
	for _, rebuild := range p.history.orders() {
		if m := p.history.find(func(m *meter.Meter) bool { return m.Key() == rebuild.Meter }); m != nil {
			order.Meters = append(order.Meters, rebuiltMeter{*m, rebuild.Through})
		}
	}
	return order, nil
}

// journalBegins returns the day on which the first event of the journal was accepted, where others came before it. Those of a later day
// are all there.
func (p *applier) journalBegins(ctx context.Context, start uint64) (day event.Day, err error) {
	day = -1
	if start <= 1 {
		return day, nil
	}
	err = p.source.readRecords(ctx, start-1, func(rec *journal.Record) (bool, error) {
		day = event.DayOf(rec.At)
		return rec.Note != nil, nil
	})
	if err != nil {
		return day, fmt.Errorf("look where the journal begins: %w", err)
	}
	return day, nil
}

// otherRestored says that another data directory has restored days in the same store. A day that holds something may then be one that
// was gone and has its part alone.
func (p *applier) otherRestored(ctx context.Context) (bool, error) {
	if !p.shared {
		return false, nil
	}
	producers, err := p.store.Producers(ctx)
	if err != nil {
		return false, fmt.Errorf("look whether another replica has restored days: %w", err)
	}
	own := p.producerIDs()
	return slices.ContainsFunc(producers, func(other store.Producer) bool {
		of, key, rebuild := RebuildOf(other.ID)
		return rebuild && strings.HasPrefix(key, restorePrefix) && !slices.Contains(own, of)
	}), nil
}

// Restored is how far the days are that were deleted and are counted again, because more days are asked for than were kept.
type Restored struct {
	// RebuildState sums up all that is done. It is RebuildDone where every day is.
	RebuildState
	// Days is how many days that are, From the first and To the last of them.
	Days     int
	From, To event.Day
	// Incomplete are those whose events may have left the journal, or be counted by another replica alone.
	Incomplete []event.Day
}

// restored returns how far the restores are, nil where there are none of days that can be asked for.
func (a *Aggregator) restored() *Restored {
	r := &Restored{From: -1, RebuildState: RebuildState{Phase: RebuildDone}}
	oldest := a.Oldest()
	var days []event.Day
	for _, o := range a.restores.orders() {
		before := len(days)
		for _, day := range o.Days {
			if day >= oldest {
				days = append(days, day)
			}
		}
		for _, day := range o.Incomplete {
			if day >= oldest {
				r.Incomplete = append(r.Incomplete, day)
			}
		}
		if len(days) == before {
			continue
		}
		state := a.rebuilder.restoreState(o)
		r.Events, r.Done = r.Events+state.Events, r.Done+state.Done
		if state.Phase != RebuildDone && r.Phase != RebuildRunning {
			r.Phase = state.Phase
		}
	}
	if len(days) == 0 {
		return nil
	}
	slices.Sort(r.Incomplete)
	r.Incomplete = slices.Compact(r.Incomplete)
	r.Days, r.From, r.To = len(days), slices.Min(days), slices.Max(days)
	return r
}
