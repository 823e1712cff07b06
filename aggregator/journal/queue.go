package journal

import (
	"fmt"
	"sync"
	"time"
)

// groupBytes bounds what joins the first batch of a group. At the 1 GB/s of a good disk 4 MiB delay the first
// batch by 4 ms, and larger groups are hardly more efficient.
const groupBytes = 4 << 20

// Batch is a number of entries that are appended together.
type Batch struct {
	// N is the number of entries, at least 1.
	N int
	// Entries are the entries one behind the other, each as made by [AppendEntry]. An entry of length 0 is one that was
	// blanked. The journal doesn't keep the slice after Append has returned, unless with [ErrUnknown].
	Entries []byte
	// Tag is handed to Config.Committed and not stored.
	Tag any
}

// Append adds a batch and returns the number of its first entry; the others follow without a gap. The batch is durable
// on return. Concurrent calls share one sync. The error wraps [ErrUnavailable] where the journal cannot write: the batch
// is then not in the journal, and never will be. It wraps [ErrUnknown] where that is not known: the batch and its Tag must
// not be used again, since the journal may still read them.
func (j *Journal) Append(b Batch) (first uint64, err error) {
	if err := j.check(b); err != nil {
		j.metrics.refused.Inc()
		return 0, err
	}
	return j.submit(func(q *queue) (*group, int) { return q.join(b, j.maxRecord) })
}

// Note adds a record that has no sequence number. It is durable on return, and readers see it where it was written
// among the events. An error is as in Append.
func (j *Journal) Note(payload []byte) error {
	if headerBytes+len(payload) > j.maxRecord {
		return fmt.Errorf("append note: %d bytes exceed the %d that fit a segment", len(payload), j.maxRecord-headerBytes)
	}
	_, err := j.submit(func(q *queue) (*group, int) {
		return q.push(&group{kind: groupNote, note: payload}), 0
	})
	return err
}

// Skip gives up the numbers up to and including through, so that the next event gets the one that follows, and does nothing
// where they have been given out. It is for a journal that lacks events which others have seen: readers see the numbers
// as a gap. It is durable on return.
func (j *Journal) Skip(through uint64) error {
	_, err := j.submit(func(q *queue) (*group, int) {
		return q.push(&group{kind: groupSkip, skip: through}), 0
	})
	return err
}

func (j *Journal) check(b Batch) error {
	if headerBytes+len(b.Entries) > j.maxRecord {
		return fmt.Errorf("append batch: %d bytes exceed the %d that fit a segment", len(b.Entries), j.maxRecord-headerBytes)
	}
	rest := b.Entries
	for i := range b.N {
		var ok bool
		if _, rest, ok = cutEntry(rest); !ok {
			return fmt.Errorf("append batch: entry %d of %d is cut short", i, b.N)
		}
	}
	if b.N <= 0 || len(rest) > 0 {
		return fmt.Errorf("append batch: %d bytes behind %d entries", len(rest), b.N)
	}
	return nil
}

// submit hands a request to the committer and waits for the answer.
func (j *Journal) submit(enqueue func(*queue) (g *group, offset int)) (uint64, error) {
	q := &j.queue
	q.mu.Lock()
	if q.refuse != nil {
		err := q.refuse
		q.mu.Unlock()
		j.metrics.refused.Inc()
		return 0, err
	}
	g, offset := enqueue(q)
	q.filled.Signal()
	q.mu.Unlock()

	<-g.done
	if g.err != nil {
		j.metrics.refused.Inc()
		return 0, g.err
	}
	return g.first + uint64(offset), nil
}

type groupKind int

const (
	groupEvents groupKind = iota
	groupNote
	groupRoll
	groupSkip
)

// group is what one sync makes durable, and those who wait for it. It is filled under the queue's lock, then owned by
// the committer until done is closed, then read-only.
type group struct {
	kind    groupKind
	batches []Batch
	note    []byte
	n       int    // entries in batches, or numbers skipped
	skip    uint64 // the last number given up
	bytes   int    // in batches
	limit   int    // of bytes

	done     chan struct{}
	answered sync.Once
	first    uint64
	err      error
}

// answer ends the wait for the group. The first answer counts.
func (g *group) answer(err error) {
	g.answered.Do(func() {
		g.err = err
		close(g.done)
	})
}

// isAnswered reports whether nobody waits for the group any more.
func (g *group) isAnswered() bool {
	select {
	case <-g.done:
		return true
	default:
		return false
	}
}

// queue holds the groups that wait for the committer, oldest first.
type queue struct {
	mu     sync.Mutex
	filled sync.Cond // signalled when groups or closed change
	groups []*group
	// refuse is what every request is answered with at once, nil while the journal accepts.
	refuse error
	closed bool
	spare  []Batch // a slice of an answered group, to be used again

	// working is the group that the committer has taken and that is not settled yet, since when it has it, and whether that
	// has lasted too long.
	working *group
	since   time.Time
	stalled bool
}

func (q *queue) init() { q.filled.L = &q.mu }

// join adds a batch to the last group, or begins a new one. q.mu is held.
func (q *queue) join(b Batch, maxRecord int) (g *group, offset int) {
	if len(q.groups) > 0 {
		g = q.groups[len(q.groups)-1]
	}
	if g == nil || g.kind != groupEvents || g.bytes+len(b.Entries) > g.limit {
		g = q.push(&group{batches: q.spare, limit: min(len(b.Entries)+groupBytes, maxRecord-headerBytes)})
		q.spare = nil
	}
	offset = g.n
	g.batches = append(g.batches, b)
	g.n += b.N
	g.bytes += len(b.Entries)
	return g, offset
}

// push adds a group. q.mu is held.
func (q *queue) push(g *group) *group {
	g.done = make(chan struct{})
	q.groups = append(q.groups, g)
	return g
}

// take waits for the oldest group and removes it. It returns nil when the queue is closed and empty.
func (q *queue) take() *group {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.groups) == 0 {
		if q.closed {
			return nil
		}
		q.filled.Wait()
	}
	g := q.groups[0]
	last := copy(q.groups, q.groups[1:])
	q.groups[last] = nil
	q.groups = q.groups[:last]
	q.working, q.since = g, time.Now()
	return g
}

// settled says that the committer is done with the group that it took. It returns true where that ends a stall.
func (q *queue) settled() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.working = nil
	ended := q.stalled
	q.stalled = false
	if ended && !q.closed {
		q.refuse = nil
	}
	return ended
}

// overdue answers everybody where the committer has had a group for as long as patience, and returns true where that has
// just begun. What it has taken may be durable or become so, hence its outcome is unknown. What still waits, and what comes
// from now on, was never written, hence it is refused.
func (q *queue) overdue(patience time.Duration, unknown, refusal error) bool {
	q.mu.Lock()
	g := q.working
	if g == nil || q.stalled || g.isAnswered() || time.Since(q.since) < patience {
		q.mu.Unlock()
		return false
	}
	q.stalled = true
	if q.refuse == nil {
		q.refuse = refusal
	}
	waiting := q.groups
	q.groups = nil
	q.mu.Unlock()
	g.answer(unknown)
	for _, w := range waiting {
		w.answer(refusal)
	}
	return true
}

// recycle takes back the memory of a group that is committed.
func (q *queue) recycle(g *group) {
	clear(g.batches)
	q.mu.Lock()
	q.spare = g.batches[:0]
	q.mu.Unlock()
	g.batches = nil
}

// stopAccepting answers what waits, and whatever comes from now on, with err.
func (q *queue) stopAccepting(err error) {
	q.mu.Lock()
	if !q.closed {
		q.refuse = err
	}
	q.stalled = false // from now on err says why
	waiting := q.groups
	q.groups = nil
	q.mu.Unlock()
	for _, g := range waiting {
		g.answer(err)
	}
}

func (q *queue) startAccepting() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.closed {
		q.refuse = nil
	}
}

// close refuses whatever comes from now on. What waits is still committed.
func (q *queue) close(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.refuse = err
	q.closed = true
	q.filled.Signal()
}

func (q *queue) refusal() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.refuse
}
