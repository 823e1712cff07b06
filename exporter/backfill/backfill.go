// Package backfill tells the embedded Prometheus what was used before it began to record: the series from which the rules learn what to
// expect, counted from the journal, which has imported events under the time at which they were created.
//
// A [Backfiller] does so when it is asked, and by itself after events have come late, which is what imports are made of. What it
// writes takes the place of what it has written before. It writes usage:activity:observed, and what the rules make of
// it, never a counter: those say when something was counted, not when it happened.
//
//	<data>/tsdb/backfill.json  whether a backfill is due, and what the last one did
package backfill

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"usaged/aggregator"
	"usaged/aggregator/aside"
	"usaged/aggregator/durable"
)

// Source knows the past, see [aggregator.Aggregator].
type Source interface {
	Past(ctx context.Context, cfg aggregator.PastConfig) (*aggregator.Past, error)
	LateEvents() (n uint64, known bool)
	Accepted() uint64
}

// Target takes it, see Prometheus of the package embedded.
type Target interface {
	Wait(ctx context.Context) error
	Recorded(ctx context.Context, metric string, g Grid) (Recorded, error)
	WritePast(ctx context.Context, keepBefore time.Time, series iter.Seq[Series]) (samples uint64, err error)
	DerivePast(ctx context.Context, given, metrics []string, g Grid) (samples uint64, err error)
}

// Config assembles a Backfiller. Fields are required unless they say otherwise.
type Config struct {
	// Path is the file of the state.
	Path   string
	Source Source
	Target Target
	// Retention is how far back samples are kept.
	Retention time.Duration
	// Damaged is where a state goes that cannot be read. It may be nil.
	Damaged    *aside.Shelf
	Log        *slog.Logger
	Registerer prometheus.Registerer
}

const (
	// settleTime is for how long no late event may have come before a backfill begins by itself, and settleLimit how long it
	// waits where they go on coming.
	settleTime  = 2 * time.Minute
	settleLimit = 10 * time.Minute
	// restTime is how long a backfill that nobody has asked for waits after the last one, and restFactor how many times as long
	// as that took: then they need a twentieth of a core at most.
	restTime   = 10 * time.Minute
	restFactor = 20
	// checkInterval is how often it is looked whether late events have come. After an error the next attempt waits as long.
	checkInterval = 15 * time.Second
)

// Phases of a backfill.
const (
	Idle    = "idle"    // nobody has asked for one
	Waiting = "waiting" // for the store to have what was accepted, or for the embedded Prometheus
	Reading = "reading" // the journal
	Writing = "writing"
)

// State says how far a backfill is, and what the last one did.
type State struct {
	Phase string
	// Events is the number of events in the journal that it reads, Done how many of them it is through with.
	Events, Done uint64
	// Error is why the last attempt failed. It is made again.
	Error string
	// Last is nil where there was none yet.
	Last *Report
}

// Outcomes of an attempt.
const (
	outcomeDone   = "done"
	outcomeFailed = "failed"
)

// Report is what a backfill did.
type Report struct {
	// Finished is when it ended, Seconds how long it took without waiting.
	Finished time.Time `json:"finished"`
	Seconds  float64   `json:"seconds"`
	// Events is how many events it counted, of so many Types, and Samples how many samples the past has.
	Events  uint64 `json:"events"`
	Types   int    `json:"types"`
	Samples uint64 `json:"samples"`
	// From and Until are the time that was written, From zero where nothing was.
	From  time.Time `json:"from,omitzero"`
	Until time.Time `json:"until"`
	// Known is the time from which on the journal has everything, zero where nothing has been removed from it.
	Known time.Time `json:"known,omitzero"`
}

// stateFile is the form of the file.
type stateFile struct {
	// Due says that somebody has asked for a backfill which has not been done.
	Due bool `json:"due"`
	// Late is how many late events there were when the last one began.
	Late uint64  `json:"late"`
	Last *Report `json:"last,omitempty"`
}

var stateFormat = durable.Format{Version: 2, Plain: 1}

// Backfiller does backfills, one at a time. It is safe for concurrent use.
type Backfiller struct {
	cfg  Config
	log  *slog.Logger
	runs *prometheus.CounterVec
	wake chan struct{}

	mu    sync.Mutex
	file  stateFile
	state State
	asked uint64 // how often somebody has
}

// Open reads the state. Nothing is done before Run.
func Open(cfg Config) (*Backfiller, error) {
	b := &Backfiller{
		cfg: cfg, log: cfg.Log.With("component", "backfill"), wake: make(chan struct{}, 1), state: State{Phase: Idle},
		runs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "usaged_backfills_total",
			Help: "Attempts to write the past into the embedded Prometheus, by outcome.",
		}, []string{"outcome"}),
	}
	for _, outcome := range []string{outcomeDone, outcomeFailed} {
		b.runs.WithLabelValues(outcome)
	}
	b.load()
	if b.file.Due {
		b.state.Phase = Waiting
	}
	b.state.Last = b.file.Last
	return b, cfg.Registerer.Register(b.runs)
}

// load reads the state. Where there is none, as after somebody has deleted the TSDB, or it cannot be read, the past is written anew:
// a backfill replaces what an earlier one has written.
func (b *Backfiller) load() {
	plain, err := stateFormat.LoadJSON(b.cfg.Path, &b.file)
	if err == nil {
		if plain {
			err = b.save(b.file)
		}
		b.complain(err)
		return
	}
	b.file = stateFile{Due: b.cfg.Source.Accepted() > 0}
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	} else if err = fmt.Errorf("read the state of backfills: %w", err); b.cfg.Damaged != nil {
		err = b.cfg.Damaged.Move(aside.Backfill, err, b.cfg.Path)
	}
	if err == nil && b.file.Due {
		err = b.save(b.file)
	}
	b.complain(err)
}

// complain logs and counts why the state cannot be kept.
func (b *Backfiller) complain(err error) {
	if err != nil {
		b.runs.WithLabelValues(outcomeFailed).Inc()
		b.log.Error("the state of backfills cannot be read or written; what is due is done anew after the next start", "err", err)
	}
}

// BackfillState returns how far it is.
func (b *Backfiller) BackfillState() State {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state
}

// Backfill asks for a backfill of what has been accepted by now. It returns when that is noted durably; the work goes on by
// itself, also after a restart. Asking again while one waits is harmless.
func (b *Backfiller) Backfill() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	next := b.file
	next.Due = true
	if err := b.save(next); err != nil {
		return err
	}
	b.asked++
	b.state.Error = ""
	if b.state.Phase == Idle {
		b.state.Phase = Waiting
	}
	select {
	case b.wake <- struct{}{}:
	default:
	}
	return nil
}

// save makes the state durable. b.mu is held.
func (b *Backfiller) save(next stateFile) error {
	err := os.MkdirAll(filepath.Dir(b.cfg.Path), 0o777) // the TSDB makes it too, a moment later
	if err == nil {
		err = stateFormat.SaveJSON(b.cfg.Path, next, 0o640)
	}
	if err != nil {
		return fmt.Errorf("note which backfills are due: %w", err)
	}
	b.file = next
	return nil
}
