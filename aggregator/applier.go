package aggregator

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"usaged/aggregator/event"
	"usaged/aggregator/journal"
	"usaged/aggregator/store"
)

const (
	// idleInterval is how often the applier folds when little arrives. Under load the interval stretches up to
	// loadedInterval: the more events are folded at once, the fewer cells are written for each.
	idleInterval   = 50 * time.Millisecond
	loadedInterval = time.Second
	// loadedEvents is the number of events per fold at which the interval is loadedInterval. Some 2,500 events a second
	// are enough: the fewer syncs of the store, the shorter those of the journal, for which requests wait.
	loadedEvents = 2_500
	// maxFoldEvents ends a fold in a backlog, so that its memory and the time of its application are bounded.
	maxFoldEvents = 1_000_000

	// checkInterval is how often an idle applier compares the store's offsets with its own, to notice a rollback.
	checkInterval = 2 * time.Second
	// quietInterval is how often a partition without events has its offset moved forward.
	quietInterval = 10 * time.Second
)

// applier tails the journal and has it applied to the store, partition by partition. Everything but the fields behind mu, and those
// that say so, belongs to its goroutine.
//
// It reads the journal once for all live partitions, and hands each its fold. A partition that has fallen back, because it failed
// or was rolled back, reads the journal by itself until it stands where the applier does. When none is live, the applier moves
// back to the one that is furthest back.
type applier struct {
	*counting
	surroundings

	partitions []*partition
	done       chan outcome // of tasks
	users      *users
	tookOver   bool // this process has a session of its own, which is durable
	connected  bool
	position   uint64 // all live partitions have seen the journal up to here
	reader     *recordReader
	held       *journal.Record // read, but after the segment at whose end the last fold stopped
	segment    int             // of the last record folded

	full bool // the last fold ended although there was more

	// announced is when what a lowered retention deletes is due, as was logged last.
	announced time.Time
	// extended is the day on which the expiry of what is in the store was looked at last.
	extended event.Day

	lastCheck, lastQuiet, lastMaintenance, lastWarning, lastReload time.Time
	day                                                            event.Day
	recountAt, checkpointAt                                        time.Time // not before these, after an error
	unbalanced                                                     bool      // that was reported

	mu     sync.Mutex // also for changes of identity
	fenced error
	oldest time.Time // stamp of the oldest record that is not applied, zero where there is none
}

// surroundings are what the applier asks of, and tells, those around it.
type surroundings struct {
	// urgent says that somebody waits for the offsets in the store to pass quiet stretches.
	urgent func() bool
	// ordered says that days were ordered to be counted again.
	ordered func()
	// retention says what is going to be deleted.
	retention func(context.Context) (*Retention, error)
	// retentionBytes is the size beyond which the journal is cut, 0 for none.
	retentionBytes int64
	// shared says that other data directories may have counted into the store.
	shared bool
}

func newApplier(c *counting, around surroundings) *applier {
	n := c.store.Partitions()
	p := &applier{counting: c, surroundings: around, users: newUsers(n), done: make(chan outcome, n), segment: -1}
	for i := range n {
		p.partitions = append(p.partitions, newPartition(c, i, p.done))
	}
	return p
}

// run applies until ctx ends.
func (p *applier) run(ctx context.Context) {
	var workers sync.WaitGroup
	for _, c := range p.partitions {
		workers.Go(c.run)
	}
	defer func() {
		p.finishTasks()
		for _, c := range p.partitions {
			close(c.tasks)
		}
		workers.Wait()
		p.rewind(p.position)
	}()
	var retry backoff
	for ctx.Err() == nil {
		began := time.Now()
		// The batch in hand is finished although ctx ends; the store's own timeouts bound it.
		n, err := p.step(context.WithoutCancel(ctx))
		switch {
		case errors.Is(err, store.ErrFenced):
			p.stopFenced(ctx, err)
			return
		case err != nil:
			wait := retry.after(err)
			p.log.Warn("no partition takes events; the journal keeps them, retrying",
				"reason", reasonOf(err), "err", err, "retry_seconds", wait.Seconds())
			p.sleep(ctx, wait)
		default:
			retry.reset()
			if !p.full {
				p.wait(ctx, stretch(n)-time.Since(began))
			}
		}
	}
}

// stretch returns the interval that suits a fold of n events.
func stretch(n int) time.Duration {
	return idleInterval + (loadedInterval-idleInterval)*time.Duration(min(n, loadedEvents))/loadedEvents
}

// step does one round: connect where needed, fold and apply what is new, let partitions load and catch up, adopt what they have
// loaded, and keep house. It returns an error where no partition takes anything.
func (p *applier) step(ctx context.Context) (n int, err error) {
	if !p.connected {
		if err := p.connect(ctx); err != nil {
			p.waitsSince(p.now())
			return 0, err
		}
	}
	n = p.foldLive(ctx)
	for _, c := range p.partitions {
		if c.lagging(p.position) && c.due() {
			p.start(c, task{ctx: ctx, through: p.position})
		}
	}
	p.check(ctx)
	p.collect()
	p.adopt()
	counted := p.accounts.CountedThrough()
	if counted == p.position && p.journal.End() == p.position {
		p.setOldest(time.Time{})
	}
	p.verdicts.DropThrough(counted)
	p.maintain(ctx)
	return n, p.failure()
}

// lagging says that the partition has something to do that the shared fold does not do for it.
func (c *partition) lagging(position uint64) bool {
	if c.busy {
		return false
	}
	switch c.current() {
	case partitionLoading:
		return c.loaded == nil
	case partitionCatchingUp:
		return c.batch != nil || c.position() < position || c.position() >= c.until
	}
	return false
}

// due says that nothing forbids an attempt now.
func (c *partition) due() bool { return !c.busy && (c.err == nil || !time.Now().Before(c.retryAt)) }

// settle notes how an attempt ended.
func (p *applier) settle(c *partition, err error) {
	c.err = err
	p.noteReading(c, err)
	if err == nil {
		c.retry.reset()
		return
	}
	c.retryAt = time.Now().Add(c.retry.after(err))
	if !isReadError(err) {
		p.metrics.storeErrors.Inc()
	}
}

// failure returns an error where all partitions have one, or some is fenced; with others it logs.
func (p *applier) failure() error {
	var first error
	failed := 0
	for _, c := range p.partitions {
		if errors.Is(c.err, store.ErrFenced) {
			return c.err
		}
		if c.err != nil {
			failed++
			if first == nil {
				first = c.err
			}
		}
	}
	switch {
	case failed == len(p.partitions):
		return first
	case failed > 0 && time.Since(p.lastWarning) > maxBackoff:
		p.lastWarning = time.Now()
		p.log.Warn("some partitions take no events; the journal keeps them, retrying", "reason", reasonOf(first), "err", first, "partitions", failed)
	}
	return nil
}

// reasonOf says whether events wait for the store, or because the journal cannot be read.
func reasonOf(err error) string {
	if isReadError(err) {
		return "journal"
	}
	return "store"
}

// wait waits until there is something new to apply, but at least d, and at most until the next check.
func (p *applier) wait(ctx context.Context, d time.Duration) {
	if d > 0 {
		p.sleep(ctx, d)
	}
	changed := p.journal.Changed()
	if p.journal.End() > p.position || slices.ContainsFunc(p.partitions, func(c *partition) bool { return c.lagging(p.position) && c.due() }) {
		return
	}
	timer := time.NewTimer(checkInterval)
	defer timer.Stop()
	select {
	case <-changed:
	case o := <-p.done:
		p.take(o)
	case <-timer.C:
	case <-ctx.Done():
	}
}

func (p *applier) sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// rewind makes position the place from which the next fold reads.
func (p *applier) rewind(position uint64) {
	if p.reader != nil {
		if err := p.reader.Close(); err != nil {
			p.log.Warn("journal segment could not be closed", "err", err)
		}
	}
	p.position, p.reader, p.held, p.segment = position, nil, nil, -1
}

func (p *applier) setOldest(at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.oldest = at
}

// waitsSince says that events may be waiting since a time, where no earlier one is known.
func (p *applier) waitsSince(at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.oldest.IsZero() {
		p.oldest = at
	}
}

// lag returns the age of the oldest event that is not applied.
func (p *applier) lag() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.oldest.IsZero() {
		return 0
	}
	return max(0, p.now().Sub(p.oldest))
}

// inState returns the number of partitions in a state.
func (p *applier) inState(state partitionState) (n int) {
	for _, c := range p.partitions {
		if c.is(state) {
			n++
		}
	}
	return n
}

func (p *applier) producerIDs() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var ids []string
	for _, producer := range p.identity.Producers {
		ids = append(ids, producer.ID)
	}
	return ids
}

// check compares the store's offsets with ours every checkInterval, and moves quiet partitions forward every quietInterval. It
// also looks whether the accounts balance.
func (p *applier) check(ctx context.Context) {
	now := time.Now()
	if now.Sub(p.lastCheck) < checkInterval {
		return
	}
	p.lastCheck = now
	p.checkBalance(now)
	quiet := now.Sub(p.lastQuiet) >= quietInterval || p.urgent()
	if quiet {
		p.lastQuiet = now
	}
	for _, c := range p.partitions {
		if !c.due() || !c.is(partitionLive) {
			continue
		}
		t := task{ctx: ctx, through: c.stored, confirm: true}
		if quiet {
			t.through = c.position()
		}
		p.start(c, t)
	}
}

// stopFenced ends applying for the life of the process. Events are still accepted.
func (p *applier) stopFenced(ctx context.Context, err error) {
	p.mu.Lock()
	p.fenced = err
	p.mu.Unlock()
	err = errors.Join(err, p.note(func(next *identity) { next.Fenced = true })) // if not, the store tells it at the next contact
	p.log.Error("another usaged counts under this data directory's producer id: stopped counting. Events are still accepted. "+
		"If a copy of this data directory runs elsewhere that is fine; restart this one, and it will count what is left under a new id",
		"err", err)
	<-ctx.Done()
}

// Waits after an error.
const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 5 * time.Second
	// maxReadBackoff is that after an error of reading the journal: nobody else is burdened by another attempt.
	maxReadBackoff = time.Second
)

// backoff doubles from minBackoff to maxBackoff. The zero value is ready.
type backoff struct{ last time.Duration }

func (b *backoff) next() time.Duration {
	b.last = min(max(2*b.last, minBackoff), maxBackoff)
	return b.last
}

// after returns the wait after an error.
func (b *backoff) after(err error) time.Duration {
	wait := b.next()
	if isReadError(err) {
		wait = min(wait, maxReadBackoff)
	}
	return wait
}

func (b *backoff) reset() { b.last = 0 }

func (p *applier) isFenced() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fenced != nil
}
