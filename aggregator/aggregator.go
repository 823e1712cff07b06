// Package aggregator takes accepted events from the journal to the store.
//
// An [Aggregator] owns the journal of one data directory. Accept journals a batch of events and returns when it is durable.
// After that the applier reads the journal once for all partitions of the store, and folds the events of each into a delta; the
// partition's worker has the store apply it by compare-and-set. So each event counts once, whatever is killed, retried or rolled
// back in between. A worker whose partition fails, or was rolled back, reads the journal by itself until it has caught up.
//
// The journal is the truth and the store a view of it: when the store has lost something, the applier goes back to
// the offset that it finds there and applies again what comes after it, from the journal, or where the
// journal begins later from the checkpoint that lies at its beginning.
//
// What is not about that way has packages of its own: [usaged/aggregator/rollup] answers questions from the store,
// [usaged/aggregator/ledger] keeps what became of every event, [usaged/aggregator/ids] decides what is a duplicate, and
// [usaged/aggregator/tail] reads the raw events. None of them knows an Aggregator.
//
// An Aggregator is safe for concurrent use:
//
//	agg, err := aggregator.Open(aggregator.Config{Dir: dir, Store: st, Meters: meter.Builtin(), Retention: 30})
//	...
//	err = agg.Accept(batch) // the events are durable now, and counted a moment later
//	report, err := agg.Ledger(ctx)
//	err = agg.Close()
//
// The files of a data directory:
//
//	<data>/journal/      the events, see package journal
//	<data>/checkpoints/  lifetime totals at the ends of segments
//	<data>/labels.json   the values of their labels
//	<data>/producer.json who this data directory counts as
//	<data>/drained.json  how far its events were sent elsewhere; then it is used no more
//	<data>/ids.json      since when ids are told apart by event type
//	<data>/meters.json   by which meters each event is counted
//	<data>/restores.json which days are counted again after a higher retention
//
// # Copies of a data directory
//
// An event is known by the id of its producer and its number in the journal, so two directories must never give one number under
// one id to two events. A directory may be copied, restored from a backup, or lose its journal at any moment. What tells:
//
//   - producer.json, and its copy in journal/identity.json, name their own file by inode and birth. No copy of files keeps these;
//     a copy of a disk's blocks (a snapshot, a cloned volume) does.
//   - They say which session the store has confirmed last (met), which session was begun (session), the last number that the
//     journal is known to have held (end), and where the journal ended when it was first opened after the last contact (opened).
//   - Checkpoints say up to which number there were events.
//   - The store has of each id the offset, the session, and where each session took over; and up to which event, with its
//     digest, a copy of files has in common with the original what it counts under the id of both.
//
// What happens, and what follows. The last id is the one that new events count under.
//
//	at the open, without the store
//	  first start                            the journal's id; session, met and end are 0
//	  restart, kill, power cut               the last id; nothing has changed
//	  files copied or restored               a new id after end; up to there all copies have the same events, which count once
//	  journal lost, or older than end        a new id after end; the numbers between are skipped, damaged and alarmed
//	  one of the two identity files lost     it is made again from the other, and alarmed
//	  both lost                              refused
//	at the contact with the store
//	  its session is met or session          the last id goes on from the store's offset
//	  another session took over              a new id after the offset at which it did: blocks were copied. What is not counted
//	                                         by then may be counted by both: usaged_doubtful_events_total
//	  offset after opened, same session      a copy of files has counted what both have, if the digest says so: the last id goes
//	                                         on. Else blocks were put back: a new id after opened; what the store and the journal
//	                                         both have after it may be counted twice, and is in the metric too
//	  the offset is lower than it was        the store has lost events: they are applied again
//	  killed before the session is written   nothing has changed
//	  killed before the store has it         session is known as ours; opened stays, and is compared again
//	  killed before met is written           the same
//	while it counts
//	  another session takes over             counting stops (fenced); the next start is "another session took over"
//	  the original or a copy applies what    compare-and-set lets one of them; the other reads on from there
//	    both have
//	other
//	  segments are deleted (retention)       a partition that stood before them is brought to their checkpoint, under each id
//	  journal drain                          sends what is not counted by the rules above, then no daemon starts on the directory
//
// Of directories that share an id, each weighs what the store has under an id that it has left against its own events: more is what
// the other has counted, less is damaged or lost. Under the last id more is wrong too. Lost events, or doubled ones, leave the
// ledger unbalanced, which is alarmed.
//
// Nothing tells two copies of blocks apart once the store has lost the sessions of both, nor a copy of files from its original
// where the original's disk is then put back to older blocks. TestOrdersOfIdentity goes through all other orders of these steps.
package aggregator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"github.com/prometheus/client_golang/prometheus"

	"usaged/aggregator/datadir"
	"usaged/aggregator/durable"
	"usaged/aggregator/event"
	"usaged/aggregator/ids"
	"usaged/aggregator/journal"
	"usaged/aggregator/ledger"
	"usaged/aggregator/meter"
	"usaged/aggregator/retention"
	"usaged/aggregator/seqset"
	"usaged/aggregator/store"
	"usaged/aggregator/tail"
)

// Config assembles an aggregator.
type Config struct {
	// Dir is the data directory. Required. The caller holds its lock.
	Dir string
	// Store takes the rollups. Required. It stays open until after Close.
	Store store.Store
	// Shared says that other data directories may have counted into the store, with a usaged of another version too.
	Shared bool
	// Meters say what is counted beside the events by type and user, until SetMeters says otherwise.
	Meters []meter.Meter
	// Labels bound the labels of lifetime totals.
	Labels meter.Limits
	// Retention is the number of UTC days, today included, that rollups are kept and events may be dated back. Required.
	Retention int
	// Policy says for how many days rollups and events are kept, which may be longer. Nil: for Retention.
	Policy *retention.Policy
	// RetentionBytes is the size of the journal beyond which its oldest segments are deleted before their time, 0 for no
	// limit.
	RetentionBytes int64
	// SegmentBytes is the journal's segment size, 0 for its default.
	SegmentBytes int

	// Now is the clock, time.Now where nil. It must not follow a wall clock that is set wrong, see package clock.
	Now func() time.Time
	// Deletion is the time by which old data is deleted, never later than Now. Now where nil.
	Deletion func() time.Time
	// Log gets what operators should know. Discarded where nil.
	Log *slog.Logger
	// Metrics gets counters and gauges, Registerer histograms. Not kept where nil.
	Metrics    *metrics.Set
	Registerer prometheus.Registerer

	// readFault is asked before each read of the journal for the store, which then fails with what it returns. Tests set it.
	readFault func() error
}

// ErrUnavailable says that the journal cannot accept events now, and that those given are not in it.
var ErrUnavailable = journal.ErrUnavailable

// ErrUnknown says that it is not known whether the events given are in the journal, or will be.
var ErrUnknown = journal.ErrUnknown

// Aggregator takes events. It is safe for concurrent use.
type Aggregator struct {
	cfg Config
	*counting

	applier   *applier
	rebuilder *rebuilder
	// hurry is how many wait for the offsets in the store to pass quiet stretches.
	hurry atomic.Int32

	othersMu sync.Mutex
	others   []ledger.Other // as the store said last; replaced, never changed

	stop    context.CancelFunc
	running sync.WaitGroup

	closeOnce sync.Once
	closeErr  error
}

// Open opens the journal in cfg.Dir, recovers what a crash left, and starts the applier. The store need not be
// reachable yet.
func Open(cfg Config) (*Aggregator, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Deletion == nil {
		cfg.Deletion = cfg.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Metrics == nil {
		cfg.Metrics = metrics.NewSet()
	}
	a := &Aggregator{
		cfg: cfg,
		counting: &counting{
			log:      cfg.Log.With("component", "aggregator"),
			store:    cfg.Store,
			accounts: ledger.New(cfg.Store.Partitions()),
			verdicts: &ids.Verdicts{},
			keep:     keeping{days: cfg.Retention, policy: cfg.Policy, now: cfg.Now, deletion: cfg.Deletion},
			now:      cfg.Now,
		},
	}
	err := refuseDrained(cfg.Dir)
	if err != nil {
		return nil, err
	}
	if err := durable.RemoveTemporary(cfg.Dir); err != nil {
		return nil, fmt.Errorf("open data directory: %w", err)
	}
	a.journal, err = journal.Open(journal.Config{
		Dir:          filepath.Join(cfg.Dir, datadir.Journal),
		SegmentBytes: cfg.SegmentBytes,
		Now:          cfg.Now,
		Log:          cfg.Log.With("component", "journal"),
		Metrics:      cfg.Metrics,
		Registerer:   cfg.Registerer,
		Committed:    a.committed,
	})
	if err != nil {
		return nil, err
	}
	if err := a.begin(); err != nil {
		return nil, errors.Join(err, a.journal.Close())
	}
	return a, nil
}

// begin prepares and starts the applier.
func (a *Aggregator) begin() (err error) {
	a.source = source{journal: a.journal, fault: a.cfg.readFault}
	found, err := a.openState()
	if err != nil {
		return fmt.Errorf("open data directory: %w", err)
	}
	if a.scope, err = ids.OpenScope(a.cfg.Dir, a.journal.End() == 0 && !a.cfg.Shared, a.cfg.Now()); err != nil {
		return fmt.Errorf("open data directory: %w", err)
	}
	if a.restores, err = openRestores(a.cfg.Dir); err != nil {
		return fmt.Errorf("open data directory: %w", err)
	}
	if a.history, err = openHistory(a.cfg.Dir, a.journal, a.restores, a.cfg.Meters, a.cfg.Now); err != nil {
		return fmt.Errorf("open data directory: %w", err)
	}
	if a.metrics, err = newMetrics(a.cfg.Metrics, a.cfg.Registerer); err != nil {
		return err
	}
	a.applier = newApplier(a.counting, surroundings{
		urgent:         func() bool { return a.rebuilder.waits.Load() || a.hurry.Load() > 0 },
		ordered:        func() { a.rebuilder.look() },
		retention:      a.Retention,
		retentionBytes: a.cfg.RetentionBytes,
		shared:         a.cfg.Shared,
	})
	a.rebuilder = newRebuilder(a.counting, a.applier.isFenced)
	a.registerGauges(a.cfg.Metrics)
	a.report(found)
	if found.lost != (seqset.Run{}) {
		a.accounts.Gap(found.lost)
	}
	if err := a.applier.recoverAccepted(); err != nil {
		return fmt.Errorf("recover accounts: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	a.stop = cancel
	a.running.Go(func() { a.applier.run(ctx) })
	a.running.Go(func() { a.rebuilder.run(ctx) })
	return nil
}

// openState reads what says who the directory counts as, how far it came and which labels it uses, and has the journal go on
// after the last number that any of them mentions.
func (a *Aggregator) openState() (found findings, err error) {
	var mended bool
	if a.labels, mended, err = openLabels(a.cfg.Dir, a.cfg.Labels); err != nil {
		return found, err
	}
	if a.checkpoints, err = openCheckpoints(filepath.Join(a.cfg.Dir, datadir.Checkpoints)); err != nil {
		return found, err
	}
	a.identity, found, err = openIdentity(a.cfg.Dir, opening{
		journalID: a.journal.ID(), end: a.journal.End(), known: a.checkpoints.newest().Seq, partitions: a.store.Partitions(),
	})
	if err != nil {
		return found, err
	}
	found.repaired = found.repaired || mended
	if found.lost == (seqset.Run{}) {
		return found, nil
	}
	if err := a.checkpoints.rebase(a.journal.Segments()[0].Index); err != nil {
		return found, err
	}
	return found, a.journal.Skip(found.lost.Last)
}

// report raises the alarm for what was unusual about the data directory.
func (a *Aggregator) report(found findings) {
	if found.reason != "" {
		a.metrics.identityAlarms.Inc()
		a.log.Warn("counting new events under a new producer id", "reason", found.reason, "new", a.identity.last().ID,
			"from", a.identity.End)
	}
	if found.lost != (seqset.Run{}) {
		a.metrics.identityAlarms.Inc()
		a.log.Error("events that were accepted are no longer in the journal; those that were not counted are shown as damaged: restore the journal "+
			"from a backup that has them, if there is one", "first", found.lost.First, "last", found.lost.Last)
	}
	if found.repaired {
		a.metrics.identityAlarms.Inc()
		a.log.Warn("a state file was missing or damaged and has been written again from its copy", "data_dir", a.cfg.Dir)
	}
	if found.unsaved != nil {
		a.metrics.identityAlarms.Inc()
		a.log.Error("it could not be noted that this data directory was opened; trying again when the store is reached", "err", found.unsaved)
	}
}

// Accept journals a batch and returns when it is durable. An error that is ErrUnavailable means that it isn't in the
// journal and never will be. After one that is ErrUnknown the batch must not be used again; otherwise it may be.
func (a *Aggregator) Accept(batch *event.Batch) error {
	_, err := a.journal.Append(journal.Batch{N: batch.N, Entries: batch.Entries, Tag: batch})
	return err
}

// Ready returns nil while the journal can accept, and otherwise says why it cannot. It doesn't depend on the store.
func (a *Aggregator) Ready() error { return a.journal.Ready() }

// TailAfter returns a reader of the accepted events that begins after a cursor, see [tail.After].
func (a *Aggregator) TailAfter(c tail.Cursor) (*tail.Reader, error) { return tail.After(a.journal, c) }

// TailSince returns a reader of the events accepted at or after a time, see [tail.Since].
func (a *Aggregator) TailSince(since time.Time) (*tail.Reader, error) {
	return tail.Since(a.journal, since)
}

// Oldest returns the oldest UTC day inside the retention window.
func (a *Aggregator) Oldest() event.Day { return a.keep.oldest() }

// Pending returns how many events have been accepted and are not counted yet. It does not wait for the store; known is false until that
// has been reached.
func (a *Aggregator) Pending() (n uint64, known bool) {
	return a.accounts.Pending(), a.accounts.Known()
}

// producers returns the ids under which this data directory has counted.
func (a *Aggregator) producers() []string { return a.applier.producerIDs() }

// Close stops the applier when the batch in hand is applied, and closes the journal. What is not applied yet will be after
// the next Open.
func (a *Aggregator) Close() error {
	a.closeOnce.Do(func() {
		a.stop()
		a.running.Wait()
		a.closeErr = a.journal.Close()
	})
	return a.closeErr
}
