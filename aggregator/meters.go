package aggregator

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"time"

	"usaged/aggregator/durable"
	"usaged/aggregator/journal"
	"usaged/aggregator/meter"
	"usaged/aggregator/seqset"
)

// history says by which meters each event is counted: the file <data>/meters.json. It is safe for concurrent use.
//
// An event is counted by the meters that were in force when it was accepted, whenever it is folded: for the first time, or
// again because the store has lost something. So what is counted twice by the journal's rules is counted alike, and no event
// is added to a meter by one fold and left out by another. The meters change behind an event, at which a new epoch begins; no
// fold has events of two epochs.
//
// What was accepted before a meter was there is counted by a rebuild, if somebody asks for one, see rebuilder.
type history struct {
	path    string
	journal *journal.Journal
	now     func() time.Time
	// restores are asked where a fold must end. They have a lock of their own.
	restores *restores

	mu   sync.Mutex
	file historyFile
	// unsaved says that the file could not be written: it may be older or newer than this, and nobody may count by it.
	unsaved bool
}

// historyFile is the form of meters.json.
type historyFile struct {
	// Epochs are in the order of their time. None changes once it is here.
	Epochs []*epoch `json:"epochs"`
	// Rebuilds are the meters whose past has been asked for, by their keys.
	Rebuilds []rebuildOrder `json:"rebuilds,omitempty"`
}

// epoch is a stretch of the journal with one list of meters.
type epoch struct {
	// From is the first event of the epoch. The last one is the one before the next epoch's.
	From uint64 `json:"from"`
	// At is when the epoch began.
	At     time.Time     `json:"at"`
	Meters []meter.Meter `json:"meters"`
}

// rebuildOrder asks for the events of a meter up to Through that fell into epochs without it.
type rebuildOrder struct {
	Meter   string `json:"meter"`
	Through uint64 `json:"through"`
}

var historyFormat = durable.Format{Version: 2, Plain: 1}

// openHistory reads the file, or makes it, and puts meters in force for all events that follow.
func openHistory(dir string, j *journal.Journal, restores *restores, meters []meter.Meter, now func() time.Time) (*history, error) {
	h := &history{path: filepath.Join(dir, "meters.json"), journal: j, restores: restores, now: now}
	plain, err := historyFormat.LoadJSON(h.path, &h.file)
	switch {
	case errors.Is(err, os.ErrNotExist):
		h.file = historyFile{}
		if j.End() > 0 { // by a version that knew the built-in meters alone
			h.file.Epochs = []*epoch{{From: 1, Meters: meter.Builtin()}}
		}
	case errors.Is(err, durable.ErrVersion):
		return nil, fmt.Errorf("read which meters were in force: %w: start the newer usaged that wrote it", err)
	case err != nil:
		return nil, fmt.Errorf("read which meters were in force: %w: restore it from a backup", err)
	case len(h.file.Epochs) == 0:
		return nil, fmt.Errorf("read which meters were in force: %s is %w: it names none: restore it from a backup", h.path, durable.ErrDamaged)
	}
	h.unsaved = plain
	return h, h.begin(meters)
}

// begin puts meters in force for all events that are accepted from now on. On an error those before stay in force.
func (h *history) begin(meters []meter.Meter) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	// No event behind this one has been handed out by at, which takes the same lock.
	first := h.journal.End() + 1
	next := h.pruned()
	for len(next.Epochs) > 0 && next.Epochs[len(next.Epochs)-1].From >= first {
		next.Epochs = next.Epochs[:len(next.Epochs)-1] // it has no events
	}
	if n := len(next.Epochs); n == 0 || !same(next.Epochs[n-1].Meters, meters) {
		next.Epochs = append(next.Epochs, &epoch{From: first, At: h.now().UTC(), Meters: slices.Clone(meters)})
	}
	return h.save(next)
}

// same says that two lists of meters are written alike in the file.
func same(a, b []meter.Meter) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// pruned returns a copy of the file without what lies before the journal's beginning. h.mu is held.
func (h *history) pruned() historyFile {
	start := h.journal.Start()
	next := historyFile{Epochs: slices.Clone(h.file.Epochs)}
	for len(next.Epochs) > 1 && next.Epochs[1].From <= start {
		next.Epochs = next.Epochs[1:]
	}
	for _, order := range h.file.Rebuilds {
		if order.Through >= start {
			next.Rebuilds = append(next.Rebuilds, order)
		}
	}
	return next
}

// save makes the file durable, and keeps what was there where that fails. h.mu is held.
func (h *history) save(next historyFile) error {
	if reflect.DeepEqual(h.file, next) && !h.unsaved {
		return nil
	}
	if err := historyFormat.SaveJSON(h.path, next, 0o640); err != nil {
		h.unsaved = true // even so the new file may be what the next start finds
		return fmt.Errorf("write %s: %w", h.path, err)
	}
	h.file, h.unsaved = next, false
	return nil
}

// at returns the epoch of an event that is to be folded, and the last event that may be folded with it: the epoch's last
// one, or as yet the journal's, or the last one before the days change that are left to a restore.
func (h *history) at(seq uint64) (e *epoch, through uint64, err error) {
	e, through, err = h.epochOf(seq)
	if err == nil {
		_, through = h.restores.excluded(seq, through)
	}
	return e, through, err
}

// epochOf returns the epoch of an event, and the last event of it that there is.
func (h *history) epochOf(seq uint64) (e *epoch, through uint64, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.unsaved {
		if err := h.save(h.file); err != nil {
			return nil, 0, err
		}
	}
	through = h.journal.End()
	for _, e := range slices.Backward(h.file.Epochs) {
		if e.From <= seq {
			return e, through, nil
		}
		through = e.From - 1
	}
	return h.file.Epochs[0], through, nil // it has been pruned with all of its epoch's events
}

// current returns the meters in force.
func (h *history) current() []meter.Meter {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.file.Epochs[len(h.file.Epochs)-1].Meters
}

// find returns the meter in force that f accepts, nil where there is none.
func (h *history) find(f func(*meter.Meter) bool) *meter.Meter {
	meters := h.current()
	for i := range meters {
		if f(&meters[i]) {
			return &meters[i]
		}
	}
	return nil
}

// has says whether the epoch's events are counted by the meter with a key.
func (e *epoch) has(key string) bool {
	return slices.ContainsFunc(e.Meters, func(m meter.Meter) bool { return m.Key() == key })
}

// past is what came before a meter.
type past struct {
	// since is when the meter was put in force, zero where it has been since the beginning, as far as is known.
	since time.Time
	// through is the last event before that, 0 where there is none.
	through uint64
	// missed are the events up to it that are in the journal and were not counted when they were applied.
	missed seqset.Set
	// order is what has been asked to be rebuilt.
	order rebuildOrder
}

// pastOf returns what came before a meter in force.
func (h *history) pastOf(key string) past {
	h.mu.Lock()
	defer h.mu.Unlock()
	var p past
	start := h.journal.Start()
	inForce := true
	for i, e := range slices.Backward(h.file.Epochs) {
		had := e.has(key)
		if inForce && !had {
			inForce = false
			p.since, p.through = h.file.Epochs[i+1].At, h.file.Epochs[i+1].From-1
		}
		if had || i+1 == len(h.file.Epochs) {
			continue
		}
		if missed := (seqset.Run{First: max(e.From, start), Last: h.file.Epochs[i+1].From - 1}); missed.First <= missed.Last {
			p.missed.AddRun(missed)
		}
	}
	if i := slices.IndexFunc(h.file.Rebuilds, func(order rebuildOrder) bool { return order.Meter == key }); i >= 0 {
		p.order = h.file.Rebuilds[i]
	}
	return p
}

// order asks for a meter's past.
func (h *history) order(key string, through uint64) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	next := h.pruned()
	i := slices.IndexFunc(next.Rebuilds, func(order rebuildOrder) bool { return order.Meter == key })
	if i < 0 {
		next.Rebuilds = append(next.Rebuilds, rebuildOrder{Meter: key, Through: through})
	} else {
		next.Rebuilds[i].Through = max(next.Rebuilds[i].Through, through)
	}
	return h.save(next)
}

// orders returns what has been asked to be rebuilt.
func (h *history) orders() []rebuildOrder {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.file.Rebuilds)
}

// MeterState is a meter in force, and how much of the journal it has counted.
type MeterState struct {
	meter.Meter
	// Since is when the meter was put in force, zero where it has been since the beginning.
	Since time.Time
	// Complete says that nothing in the journal is missing in the meter's sums, apart from what is pending.
	Complete bool
	// Rebuild is nil where no rebuild was asked for, or nothing of what it counted is in the journal any more.
	Rebuild *RebuildState
}

// Meters returns the meters in force.
func (a *Aggregator) Meters() []meter.Meter { return a.history.current() }

// SetMeters puts meters in force. The events that are accepted when it returns are counted by them, what was accepted before
// is not. On an error those before stay in force.
func (a *Aggregator) SetMeters(meters []meter.Meter) error {
	if err := a.history.begin(meters); err != nil {
		return err
	}
	a.rebuilder.look() // a meter that came back may have a rebuild to go on with
	return nil
}

// MeterStates returns the meters in force.
func (a *Aggregator) MeterStates() []MeterState {
	var states []MeterState
	for _, m := range a.history.current() {
		past := a.history.pastOf(m.Key())
		state := MeterState{Meter: m, Since: past.since, Rebuild: a.rebuilder.state(past)}
		state.Complete = !m.Stored() || past.missed.Empty() ||
			past.order.Through == past.through && state.Rebuild != nil && state.Rebuild.Phase == RebuildDone
		states = append(states, state)
	}
	return states
}

// ErrNoMeter says that no meter has the name asked for.
var ErrNoMeter = errors.New("no such meter")

// RebuildMeter asks for the events in the journal that were accepted before a meter was put in force to be counted by it. It
// returns when this is noted durably; the work goes on by itself, over restarts, until it is done. Asking again is
// harmless. The error is ErrNoMeter where none has the name.
func (a *Aggregator) RebuildMeter(name string) error {
	m := a.history.find(func(m *meter.Meter) bool { return m.Name == name })
	if m == nil {
		return ErrNoMeter
	}
	past := a.history.pastOf(m.Key())
	if !m.Stored() || past.missed.Empty() {
		return nil // its sums are complete
	}
	if err := a.history.order(m.Key(), past.through); err != nil {
		return err
	}
	a.rebuilder.look()
	return nil
}
