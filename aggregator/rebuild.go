package aggregator

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"usaged/aggregator/event"
	"usaged/aggregator/journal"
	"usaged/aggregator/meter"
	"usaged/aggregator/seqset"
	"usaged/aggregator/store"
)

// rebuilder counts, where it is asked to, the events of a meter that were accepted before the meter was put in force, and those of
// days that are restored, see restores.
//
// What it adds to the store it adds under producers of its own: for each producer of this data directory and each order one,
// whose offset says how far the past has been counted. So all that holds for events holds for the past: a batch takes
// effect once whatever is retried or killed, what the store has lost is counted again, and copies of a data directory
// count what they share once. It reads the journal by itself, on its own goroutine; the applier never waits for it.
//
// It counts behind the applier only: events up to an offset that the store has for the applied producer. By then the
// verdicts on them are in the journal. The rebuild's own offset is read before that one, so where the store has lost what was
// applied, the rebuild waits until it is there again and reads the verdicts anew.
type rebuilder struct {
	*counting
	// fenced says that another process has taken the producer over.
	fenced func() bool

	wake chan struct{}
	// waits says that a rebuild waits for the offsets in the store to pass quiet stretches.
	waits atomic.Bool

	mu     sync.Mutex
	states map[string]rebuildProgress // by the order's key
}

// Phases of a rebuild.
const (
	RebuildWaiting = "waiting" // for the store, or for the applier
	RebuildRunning = "running"
	RebuildDone    = "done"
)

// RebuildState says how far a rebuild is.
type RebuildState struct {
	Phase string
	// Events is the number of events in the journal that the rebuild reads, Done how many of them it is through with.
	Events, Done uint64
}

// rebuildProgress is the state of the rebuild up to an event.
type rebuildProgress struct {
	RebuildState
	through uint64
}

const (
	// rebuildCheckInterval is how often the store's offsets are compared with what has been rebuilt.
	rebuildCheckInterval = 2 * time.Second
	// rebuildCheckEvents is how many events are read between two looks at how much has been folded.
	rebuildCheckEvents = 2_000
	// rebuildSession is the session of all rebuilds. The offsets alone keep two that go on at once from counting twice.
	rebuildSession = 1
)

func newRebuilder(c *counting, fenced func() bool) *rebuilder {
	return &rebuilder{counting: c, fenced: fenced, wake: make(chan struct{}, 1), states: map[string]rebuildProgress{}}
}

// rebuildID is the id of the producer under which the past of a meter, or of some days, is counted.
func rebuildID(producer, key string) string { return producer + "." + key }

// RebuildOf takes the id of a rebuild's producer apart: the producer whose events it has counted, and the key of the meter or the
// order. It returns false for any other producer.
func RebuildOf(id string) (producer, key string, ok bool) { return strings.Cut(id, ".") }

// look has the orders looked at now.
func (r *rebuilder) look() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// state returns how far a rebuild is, nil where none was ordered.
func (r *rebuilder) state(p past) *RebuildState {
	if p.order.Through == 0 {
		return nil
	}
	state := r.progress(p.order.Meter, p.order.Through)
	return &state
}

// restoreState returns how far a restore is.
func (r *rebuilder) restoreState(o restoreOrder) RebuildState { return r.progress(o.key(), o.Through) }

// progress returns how far the rebuild of a key is.
func (r *rebuilder) progress(key string, through uint64) RebuildState {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.states[key]
	if !ok || s.through != through { // what was done of an earlier order says nothing about a later one
		return RebuildState{Phase: RebuildWaiting}
	}
	return s.RebuildState
}

func (r *rebuilder) setState(key string, through uint64, s RebuildState) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.states[key] = rebuildProgress{s, through}
}

// run rebuilds what is ordered, and again what the store loses of it, until ctx ends.
func (r *rebuilder) run(ctx context.Context) {
	var retry backoff
	for ctx.Err() == nil {
		wait := rebuildCheckInterval
		if err := r.step(ctx); err != nil && ctx.Err() == nil {
			wait = retry.next()
			r.metrics.storeErrors.Inc()
			r.log.Warn("a rebuild from the journal has stopped; going on where it was", "err", err, "retry_seconds", wait.Seconds())
		} else {
			retry.reset()
		}
		r.pause(ctx, wait)
	}
}

// pause waits until there may be something to do.
func (r *rebuilder) pause(ctx context.Context, wait time.Duration) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	due := timer.C
	if len(r.history.orders()) == 0 && len(r.restores.orders()) == 0 {
		due = nil
	}
	select {
	case <-due:
	case <-r.wake:
	case <-ctx.Done():
	}
}

// step does all that is ordered and can be done now.
func (r *rebuilder) step(ctx context.Context) error {
	if !r.accounts.Known() || r.fenced() {
		return nil
	}
	waits := false
	for _, order := range r.restores.orders() {
		done, err := (&rebuildJob{counting: r.counting, note: r.setState, work: newRestoreWork(r.history, order)}).run(ctx)
		if err != nil {
			return fmt.Errorf("restore days: %w", err)
		}
		waits = waits || !done
	}
	for _, order := range r.history.orders() {
		m := r.history.find(func(m *meter.Meter) bool { return m.Key() == order.Meter })
		if m == nil {
			continue // nobody reads it; should it come back, so does its rebuild
		}
		done, err := (&rebuildJob{counting: r.counting, note: r.setState, work: newMeterWork(r.history, r.restores, m, order)}).run(ctx)
		if err != nil {
			return fmt.Errorf("rebuild meter %s: %w", m.Name, err)
		}
		waits = waits || !done
	}
	r.waits.Store(waits)
	return nil
}

// rebuildJob is one attempt at an order.
type rebuildJob struct {
	*counting
	note func(key string, through uint64, s RebuildState) // how far it is
	work rebuildWork

	chains   []*rebuildChain
	verdicts seqset.Set
	users    *users
	began    bool
	plan     planned // of the events being read
	read     uint64  // the last event that count has read
}

// rebuildChain is one partition's way through the past.
type rebuildChain struct {
	producer string // whose events are counted now
	until    uint64 // the last of them, or of the order
	stored   uint64
	position uint64
	folder   *meter.Folder
	events   int // folded and not applied
}

// planned is how a stretch of the journal is counted: by these meters, up to the event through.
type planned struct {
	meters  []meter.Meter
	through uint64
}

// rebuildWork says what a rebuild counts.
type rebuildWork interface {
	// key names its producers, log says what it is.
	key() string
	log() []any
	// through is the last event that is counted.
	through() uint64
	// plan returns by which meters an event is counted, and those that follow it.
	plan(seq uint64) (planned, error)
	// wants says whether an event is counted at all, before it is known what it says; add adds it, and says whether it did.
	wants(seq uint64) bool
	add(f *meter.Folder, seq uint64, v *event.View, user string) bool
}

// run counts until all is counted, or the applier has to go on first.
func (j *rebuildJob) run(ctx context.Context) (done bool, err error) {
	j.users = newUsers(j.store.Partitions())
	for {
		j.read = 0
		if err := j.load(ctx); err != nil {
			return false, err
		}
		from := j.position()
		if from >= j.work.through() {
			j.report(RebuildDone)
			return true, nil
		}
		applied, err := j.applied(ctx)
		if err != nil || !applied {
			j.report(RebuildWaiting)
			return false, err
		}
		if !j.began {
			j.began = true
			j.log.Info("rebuilding from the journal", append(j.work.log(), "from", from+1, "through", j.work.through())...)
		}
		j.report(RebuildRunning)
		if err := j.readVerdicts(ctx, from); err != nil {
			return false, err
		}
		if err := j.count(ctx, from); err != nil {
			return false, err
		}
		if j.position() >= j.work.through() {
			j.log.Info("rebuilt from the journal", append(j.work.log(), "through", j.work.through())...)
		}
	}
}

// load sets each chain to where the store is.
func (j *rebuildJob) load(ctx context.Context) error {
	producers, start := j.identity.Producers, j.journal.Start() // none is added once the store has been met
	j.chains = j.chains[:0]
	j.plan = planned{}
	for i := range j.store.Partitions() {
		c := &rebuildChain{folder: meter.NewFolder(nil, nil)}
		for k, producer := range producers {
			st, err := j.store.Producer(ctx, i, rebuildID(producer.ID, j.work.key()))
			if err != nil {
				return fmt.Errorf("read offset of partition %d: %w", i, err)
			}
			c.producer, c.until = producer.ID, min(j.identity.until(k, i), j.work.through())
			// What has left the journal is not counted any more.
			c.stored, c.position = st.Offset, max(st.Offset, producer.From[i], start-1)
			if c.position < c.until {
				break
			}
		}
		j.chains = append(j.chains, c)
	}
	return nil
}

// position returns the position of the chain that is furthest behind.
func (j *rebuildJob) position() uint64 {
	least := j.work.through()
	for _, c := range j.chains {
		least = min(least, c.position)
	}
	return least
}

// report notes how far the job is.
func (j *rebuildJob) report(phase string) {
	start := min(j.journal.Start(), j.work.through())
	through := min(max(j.position(), j.read), j.work.through())
	j.note(j.work.key(), j.work.through(), RebuildState{
		Phase: phase, Events: j.work.through() - start + 1, Done: max(through+1, start) - start,
	})
}

// applied says that the store has the events that are to be counted: then their verdicts are in the journal.
func (j *rebuildJob) applied(ctx context.Context) (bool, error) {
	for i, c := range j.chains {
		if c.position >= c.until {
			continue
		}
		st, err := j.store.Producer(ctx, i, c.producer)
		if err != nil {
			return false, fmt.Errorf("read offset of partition %d: %w", i, err)
		}
		if st.Offset < c.until {
			return false, nil
		}
	}
	return true, nil
}

// readVerdicts collects the verdicts on the events behind one.
func (j *rebuildJob) readVerdicts(ctx context.Context, after uint64) error {
	j.verdicts = seqset.Set{}
	return j.source.readVerdicts(ctx, after, &j.verdicts)
}

// count folds the missed events behind one and applies them.
func (j *rebuildJob) count(ctx context.Context, after uint64) error {
	j.read = after
	n, checked := 0, after
	err := j.source.readRecords(ctx, after, func(rec *journal.Record) (bool, error) {
		if rec.Note != nil {
			return true, nil
		}
		folded, err := j.fold(ctx, rec)
		if err != nil {
			return false, err
		}
		n += folded
		j.read = max(j.read, rec.First+uint64(rec.N)-1)
		if j.read >= j.work.through() {
			return false, nil
		}
		if j.read-checked < rebuildCheckEvents {
			return true, nil
		}
		checked = j.read
		j.report(RebuildRunning)
		if n < maxFoldEvents && !j.full() {
			return true, nil
		}
		n = 0
		return true, j.apply(ctx, j.read)
	})
	if err != nil {
		return err
	}
	return j.apply(ctx, j.work.through()) // what the journal lacks at its end is damaged
}

// fold hands the events of a record to their chains, and returns how many it has looked at.
func (j *rebuildJob) fold(ctx context.Context, rec *journal.Record) (n int, err error) {
	var v event.View
	for seq, entry := range rec.Each {
		if seq > j.work.through() || len(entry) == 0 || !j.work.wants(seq) || j.verdicts.Has(seq) {
			continue
		}
		if seq > j.plan.through {
			if err := j.replan(ctx, seq); err != nil {
				return n, err
			}
		}
		user := j.users.read(seq, entry, &v)
		if c := j.chains[user.partition]; seq > c.position && seq <= c.until && j.work.add(c.folder, seq, &v, user.name) {
			c.events++
			n++
		}
	}
	return n, nil
}

// replan has the events from one on counted by other meters than those before it, which are applied first.
func (j *rebuildJob) replan(ctx context.Context, seq uint64) (err error) {
	if j.plan.through > 0 {
		if err := j.apply(ctx, seq-1); err != nil {
			return err
		}
	}
	if j.plan, err = j.work.plan(seq); err != nil {
		return err
	}
	for _, c := range j.chains {
		c.folder = meter.NewFolder(j.plan.meters, nil)
		c.folder.Reset(j.keep.oldestWritten())
	}
	return nil
}

// full says that a fold has as many cells as one Apply should take.
func (j *rebuildJob) full() bool {
	limit := j.store.MaxCells()
	for _, c := range j.chains {
		if limit > 0 && c.folder.Cells() >= limit {
			return true
		}
	}
	return false
}

// apply adds what has been folded up to an event.
func (j *rebuildJob) apply(ctx context.Context, position uint64) error {
	for i, c := range j.chains {
		last := min(position, c.until)
		if last <= c.position {
			continue
		}
		// The batch in hand is finished although ctx ends; the store's own timeouts bound it.
		out, err := j.store.Apply(context.WithoutCancel(ctx), &store.Batch{
			Producer: rebuildID(c.producer, j.work.key()), Session: rebuildSession, Partition: i,
			Prev: c.stored, Last: last, Days: c.folder.Delta().Days,
		})
		if err != nil {
			return fmt.Errorf("apply to partition %d: %w", i, err)
		}
		if !out.Applied {
			return fmt.Errorf("apply to partition %d: the offset %d became %d meanwhile", i, c.stored, out.Offset)
		}
		j.metrics.rebuilt(c.events, c.folder.Stats(), out.Overflow)
		c.stored, c.position, c.events = last, last, 0
		c.folder.Reset(j.keep.oldestWritten())
	}
	j.report(RebuildRunning)
	return nil
}
