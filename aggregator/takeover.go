package aggregator

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"

	"usaged/aggregator/store"
)

// leaveFenced begins a new producer where another process took over the last one while we ran.
func (p *applier) leaveFenced(ctx context.Context) error {
	if !p.identity.Fenced {
		return nil
	}
	from := make([]uint64, len(p.partitions))
	for i := range from {
		st, err := p.a.cfg.Store.Producer(ctx, i, p.identity.last().ID)
		if err != nil {
			return err
		}
		out, err := p.a.cfg.Store.Apply(ctx, &store.Batch{
			Producer: p.identity.last().ID, Session: p.identity.Session, Partition: i, Prev: st.Offset, Last: st.Offset,
		})
		if err != nil && !errors.Is(err, store.ErrFenced) {
			return err
		}
		// What was counted before the other took over is ours; nothing behind it is.
		from[i] = max(min(out.Offset, p.endAtOpen), p.identity.last().From[i])
	}
	return p.addProducer(from, "another process took over the producer id")
}

// leaveAhead begins a new producer where the store holds events under our id that the journal had not when it was opened:
// this data directory is a restored snapshot or a copy. The numbers that it gives out now were given out before, to
// other events; what was accepted since the opening moves to the new id.
func (p *applier) leaveAhead(ctx context.Context) error {
	ahead := uint64(0)
	for i := range p.partitions {
		st, err := p.a.cfg.Store.Producer(ctx, i, p.identity.last().ID)
		if err != nil {
			return err
		}
		ahead = max(ahead, st.Offset)
	}
	if ahead <= p.endAtOpen {
		return nil
	}
	p.a.metrics.storeAhead.Set(1)
	from := make([]uint64, len(p.partitions))
	for i := range from {
		from[i] = max(p.endAtOpen, p.identity.last().From[i])
	}
	return p.addProducer(from, "the store holds events that this journal does not: it was restored from a snapshot or copied")
}

func (p *applier) addProducer(from []uint64, why string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.identity.last().ID
	if err := p.identity.add(from); err != nil {
		return fmt.Errorf("begin a new producer id: %w", err)
	}
	p.log.Warn("counting new events under a new producer id", "reason", why, "old", old, "new", p.identity.last().ID)
	return nil
}

// takeOver makes sure that no earlier process applies anything from now on.
func (p *applier) takeOver(ctx context.Context) error {
	session := p.identity.Session
	offsets := make([]uint64, len(p.partitions))
	for i := range p.partitions {
		st, err := p.a.cfg.Store.Producer(ctx, i, p.identity.last().ID)
		if err != nil {
			return err
		}
		session, offsets[i] = max(session, st.Session), st.Offset
	}
	if err := p.ensureSession(session); err != nil {
		return err
	}
	for i, offset := range offsets {
		out, err := p.a.cfg.Store.Apply(ctx, &store.Batch{
			Producer: p.identity.last().ID, Session: p.identity.Session, Partition: i, Prev: offset, Last: offset,
		})
		if err != nil {
			return err
		}
		if !out.Applied {
			return fmt.Errorf("an earlier process still applies (offset %d became %d)", offset, out.Offset)
		}
	}
	return nil
}

// ensureSession gives this process a durable session that is no lower than the highest that the store knows. A process has one for all
// its attempts to connect, and takes another only where somebody else has taken over meanwhile: the store keeps the sessions
// that took over.
func (p *applier) ensureSession(highest uint64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tookOver && p.identity.Session >= highest {
		return nil
	}
	p.identity.Session = sessionAfter(highest)
	if err := p.identity.save(); err != nil {
		return fmt.Errorf("save session: %w", err)
	}
	p.tookOver = true
	return nil
}

// sessionBits of a session are random: two copies of a data directory that take over at the same moment, each behind the
// same session, still have sessions of which one is higher.
const sessionBits = 20

// sessionAfter returns a session that is higher than another.
func sessionAfter(session uint64) uint64 {
	return (session>>sessionBits+1)<<sessionBits | rand.Uint64N(1<<sessionBits)
}
