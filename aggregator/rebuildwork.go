package aggregator

import (
	"math"
	"slices"

	"usaged/aggregator/event"
	"usaged/aggregator/meter"
	"usaged/aggregator/seqset"
)

// meterWork counts the past of a meter: the events that fell into epochs without it.
type meterWork struct {
	restores *restores
	meter    *meter.Meter
	order    rebuildOrder
	missed   seqset.Set
}

func newMeterWork(h *history, restores *restores, m *meter.Meter, order rebuildOrder) *meterWork {
	return &meterWork{restores: restores, meter: m, order: order, missed: h.pastOf(order.Meter).missed}
}

func (w *meterWork) key() string           { return w.order.Meter }
func (w *meterWork) log() []any            { return []any{"meter", w.meter.Name} }
func (w *meterWork) through() uint64       { return w.order.Through }
func (w *meterWork) wants(seq uint64) bool { return w.missed.Has(seq) }

func (w *meterWork) plan(uint64) (planned, error) {
	return planned{[]meter.Meter{*w.meter}, math.MaxUint64}, nil
}

func (w *meterWork) add(f *meter.Folder, seq uint64, v *event.View, user string) bool {
	if w.restores.countsMeter(seq, v.Day(), w.order.Meter) {
		return false
	}
	f.AddMeters(v, user)
	return true
}

// restoreWork counts the events of days that are restored, by the meters by which they were counted when the days were deleted.
type restoreWork struct {
	history *history
	order   restoreOrder
}

func newRestoreWork(h *history, order restoreOrder) *restoreWork { return &restoreWork{h, order} }

func (w *restoreWork) key() string       { return w.order.key() }
func (w *restoreWork) log() []any        { return []any{"days", len(w.order.Days)} }
func (w *restoreWork) through() uint64   { return w.order.Through }
func (w *restoreWork) wants(uint64) bool { return true }

func (w *restoreWork) plan(seq uint64) (planned, error) {
	e, through, err := w.history.at(seq)
	if err != nil {
		return planned{}, err
	}
	p := planned{slices.Clone(e.Meters), through}
	for _, m := range w.order.Meters {
		if seq <= m.Through && !e.has(m.Meter.Key()) {
			p.meters, p.through = append(p.meters, m.Meter), min(p.through, m.Through)
		}
	}
	return p, nil
}

func (w *restoreWork) add(f *meter.Folder, _ uint64, v *event.View, user string) bool {
	if !slices.Contains(w.order.Days, v.Day()) {
		return false
	}
	f.Add(v, user)
	return true
}
