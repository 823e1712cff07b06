package aggregator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
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

	// verifiableAge is how long after its acceptance an id can still be checked for duplicates.
	verifiableAge = 48 * time.Hour
)

// applier tails the journal and applies it to the store. Everything but the fields behind mu belongs to its goroutine.
//
// It normally reads the journal once for all partitions: every chain whose position is that of the applier takes part. A
// chain that has fallen behind, because its partition failed or was rolled back, reads on its own until it has
// caught up. When all are behind, the applier moves back to the one that is furthest.
type applier struct {
	a           *Aggregator
	log         *slog.Logger
	checkpoints *checkpoints

	chains    []*chain
	answers   chan answer // of calls under way, see call
	users     *users
	connected bool
	position  uint64 // all chains that are not behind have seen the journal up to here
	reader    *journal.Reader
	held      *journal.Record // read, but behind the segment at whose end the last fold stopped
	segment   int             // of the last record folded
	endAtOpen uint64          // the journal's end when it was opened

	full     bool   // the last fold ended although there was more
	lost     bool   // damage was found since the last recount
	verdicts seqSet // the duplicates that are known behind the chain that is furthest behind

	lastCheck, lastQuiet, lastMaintenance, lastWarning time.Time
	day                                                event.Day

	mu       sync.Mutex
	identity *identity
	fenced   error
	oldest   time.Time // stamp of the oldest record that is not applied, zero where there is none
}

func newApplier(a *Aggregator) *applier {
	p := &applier{a: a, log: a.log, users: newUsers(a.cfg.Store.Partitions()), endAtOpen: a.journal.End(), segment: -1}
	for i := range a.cfg.Store.Partitions() {
		p.chains = append(p.chains, newChain(p, i))
	}
	p.answers = make(chan answer, len(p.chains))
	return p
}

// run applies until ctx ends.
func (p *applier) run(ctx context.Context) {
	defer func() {
		p.finishCalls()
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
			wait := retry.next()
			p.log.Warn("the store does not take events; the journal keeps them, retrying", "err", err, "retry_seconds", wait.Seconds())
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

// step does one round: connect where needed, fold and apply what is new, retry what failed, let chains catch up, and keep
// house. It returns an error where no partition takes anything.
func (p *applier) step(ctx context.Context) (n int, err error) {
	if !p.connected {
		if err := p.connect(ctx); err != nil {
			p.a.metrics.storeErrors.Inc()
			p.waitsSince(p.a.cfg.Now())
			return 0, err
		}
	}
	if n, err = p.fold(ctx); err != nil {
		return n, err
	}
	for _, c := range p.chains {
		if c.missing() && c.due() {
			p.began(c, c.catchUp(ctx))
		}
	}
	p.check(ctx)
	p.collect()
	if p.behind() == p.position && p.a.journal.End() == p.position {
		p.setOldest(time.Time{})
	}
	if p.lost { // what is pending can't all be applied any more
		if err := p.recount(); err != nil {
			return n, err
		}
	}
	p.verdicts.dropThrough(p.behind())
	p.maintain(ctx)
	return n, p.failure()
}

// began notes how an attempt ended that called nobody.
func (p *applier) began(c *chain, err error) {
	if !c.calling {
		p.settle(c, err)
	}
}

// settle notes how a chain's last attempt ended.
func (p *applier) settle(c *chain, err error) {
	c.err = err
	if err == nil {
		c.retry.reset()
		return
	}
	c.retryAt = time.Now().Add(c.retry.next())
	p.a.metrics.storeErrors.Inc()
}

// failure returns an error where all chains have one, or some chain is fenced; with others it logs.
func (p *applier) failure() error {
	var first error
	failed := 0
	for _, c := range p.chains {
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
	case failed == len(p.chains):
		return first
	case failed > 0 && time.Since(p.lastWarning) > maxBackoff:
		p.lastWarning = time.Now()
		p.log.Warn("some partitions of the store take no events; the journal keeps them, retrying", "partitions", failed, "err", first)
	}
	return nil
}

// behind returns the position of the chain that is furthest behind.
func (p *applier) behind() uint64 {
	least := p.position
	for _, c := range p.chains {
		least = min(least, c.position)
	}
	return least
}

// wait waits until there is something new to apply, but at least d, and at most until the next check.
func (p *applier) wait(ctx context.Context, d time.Duration) {
	if d > 0 {
		p.sleep(ctx, d)
	}
	changed := p.a.journal.Changed()
	if p.a.journal.End() > p.position || slices.ContainsFunc(p.chains, func(c *chain) bool { return c.missing() && c.due() }) {
		return
	}
	timer := time.NewTimer(checkInterval)
	defer timer.Stop()
	select {
	case <-changed:
	case a := <-p.answers:
		p.take(a)
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

// fold reads what is new, at most to the end of a segment, and applies it. It returns the number of events read.
func (p *applier) fold(ctx context.Context) (int, error) {
	p.full = false
	through, taken, err := p.begin()
	if err != nil || !taken {
		return 0, err
	}
	if p.reader == nil {
		r, err := p.a.journal.Reader(p.position)
		if err != nil {
			return 0, fmt.Errorf("read journal: %w", err)
		}
		p.reader, p.held = r, nil
	}
	n, position := 0, p.position
	for {
		end := p.a.journal.End()
		rec, err := p.next()
		if errors.Is(err, io.EOF) {
			position = p.endDamaged(position, end)
			break
		}
		if err != nil {
			p.rewind(p.position)
			return n, fmt.Errorf("read journal: %w", err)
		}
		if rec.Segment != p.segment && p.segment >= 0 && n > 0 {
			p.held, p.full = rec, true // the end of a segment is where checkpoints are made
			break
		}
		if rec.Note == nil && rec.First > through { // an epoch ends behind a record
			p.held, p.full = rec, true
			position = max(position, through)
			break
		}
		p.segment = rec.Segment
		p.noteGap(rec)
		if rec.Note != nil {
			continue // verdicts are written by us, and read where we rewind
		}
		switch {
		case n > 0:
		case p.behind() == position:
			p.setOldest(rec.At)
		default:
			p.waitsSince(rec.At)
		}
		p.foldRecord(rec)
		n += rec.N
		position = max(position, rec.First+uint64(rec.N)-1)
		p.full = n >= maxFoldEvents || slices.ContainsFunc(p.chains, (*chain).full)
		if p.full {
			break
		}
	}
	p.apply(ctx, position)
	return n, nil
}

// next returns the record that was held, or the next one.
func (p *applier) next() (*journal.Record, error) {
	if rec := p.held; rec != nil {
		p.held = nil
		return rec, nil
	}
	rec, err := p.reader.Next()
	return &rec, err
}

// foldRecord hands the events of a record to the chains of their users.
func (p *applier) foldRecord(rec *journal.Record) {
	p.each(rec, p.position, allEvents, func(seq uint64, v *event.View, user userInfo) {
		if c := p.chains[user.partition]; c.folding && seq > c.position {
			c.add(seq, v, user.name)
		}
	})
}

// allEvents is a number behind every event.
const allEvents = ^uint64(0)

// each calls f for the events of a record that lie behind after, up to and including through, and were not blanked.
func (p *applier) each(rec *journal.Record, after, through uint64, f func(seq uint64, v *event.View, user userInfo)) {
	var v event.View
	for seq, entry := range rec.Each {
		if seq <= after {
			continue
		}
		if seq > through {
			return
		}
		if user, ok := p.view(seq, entry, &v); ok {
			f(seq, &v, user)
		}
	}
}

// view reads an entry. It returns false for an event that was blanked.
func (p *applier) view(seq uint64, entry []byte, v *event.View) (userInfo, bool) {
	if len(entry) == 0 {
		return userInfo{}, false
	}
	return p.users.read(seq, entry, v), true
}

// apply has the store apply what the chains have folded up to position: all partitions at once, as those of a cluster lie
// on several servers. Chains that fail keep their batch and fall behind.
func (p *applier) apply(ctx context.Context, position uint64) {
	if position == p.position {
		return
	}
	p.position = position
	for _, c := range p.chains {
		if !c.folding {
			continue
		}
		err := c.prepare(position)
		if err == nil {
			err = c.send(ctx)
		}
		p.began(c, err)
	}
}

// begin prepares the chains for a fold up to and including through, and returns false where none takes part. Where all are
// behind the applier moves back to the furthest.
func (p *applier) begin() (through uint64, taken bool, err error) {
	if least := p.behind(); least < p.position && !slices.ContainsFunc(p.chains, func(c *chain) bool {
		return c.position >= p.position || !c.free() || !c.current()
	}) {
		p.rewind(least)
	}
	e, through, err := p.a.history.at(p.position + 1)
	if err != nil {
		return 0, false, err
	}
	for _, c := range p.chains {
		taken = c.begin(e) || taken
	}
	return through, taken, nil
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

// endDamaged accounts for events that are damaged at the very end, where no record behind them tells. position is the last
// event read, end the last one that was durable when the reader came to its end. It returns the later of the two.
func (p *applier) endDamaged(position, end uint64) uint64 {
	if position < end {
		p.lost = p.a.accounts.gap(run{position + 1, end}) || p.lost
	}
	return max(position, end)
}

// noteGap accounts for events that are damaged.
func (p *applier) noteGap(rec *journal.Record) {
	if rec.Gap > 0 {
		p.lost = p.a.accounts.gap(run{rec.First - rec.Gap, rec.First - 1}) || p.lost
	}
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
	return max(0, p.a.cfg.Now().Sub(p.oldest))
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

// check compares the store's offsets with ours every checkInterval, and moves quiet chains forward every quietInterval.
func (p *applier) check(ctx context.Context) {
	now := time.Now()
	if now.Sub(p.lastCheck) < checkInterval {
		return
	}
	p.lastCheck = now
	quiet := now.Sub(p.lastQuiet) >= quietInterval || p.a.rebuilder.waits.Load() || p.a.hurry.Load() > 0
	if quiet {
		p.lastQuiet = now
	}
	for _, c := range p.chains {
		if !c.free() || !c.due() {
			continue
		}
		last := c.stored
		if quiet {
			last = c.position
		}
		c.confirm(ctx, last)
	}
}

// stopFenced ends applying for the life of the process. Events are still accepted.
func (p *applier) stopFenced(ctx context.Context, err error) {
	p.mu.Lock()
	p.identity.Fenced = true
	p.fenced = err
	err = errors.Join(err, p.identity.save())
	p.mu.Unlock()
	p.log.Error("another usaged counts under this data directory's producer id: stopped counting. Events are still accepted. "+
		"If a copy of this data directory runs elsewhere that is fine; restart this one, and it will count what is left under a new id",
		"err", err)
	<-ctx.Done()
}

// Waits after an error of the store.
const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 5 * time.Second
)

// backoff doubles from minBackoff to maxBackoff. The zero value is ready.
type backoff struct{ last time.Duration }

func (b *backoff) next() time.Duration {
	b.last = min(max(2*b.last, minBackoff), maxBackoff)
	return b.last
}

func (b *backoff) reset() { b.last = 0 }

func (p *applier) isFenced() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fenced != nil
}
