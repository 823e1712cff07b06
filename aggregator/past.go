package aggregator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"usaged/aggregator/event"
	"usaged/aggregator/journal"
	"usaged/aggregator/meter"
	"usaged/aggregator/seqset"
)

// PastConfig says how the past is to be counted.
type PastConfig struct {
	// Start and Until bound the time. Both are multiples of Step.
	Start, Until time.Time
	// Step is the length of the intervals in which events are counted. Required.
	Step time.Duration
	// Progress is told how many of how many events of the journal have been read, now and then. Nobody is where nil.
	Progress func(done, events uint64)
}

// Past is what the journal knows of the time before now: how many events were created when. It has an event whenever that was
// accepted, and like usage_events_total it has no duplicates.
type Past struct {
	PastConfig
	// Types are the events by the label that they have in usage_events_total. Late are those of all types which were accepted
	// an hour after they were created, or later.
	Types map[string]*PastEvents
	Late  []uint32
	// From is the time from which on the journal has everything: zero where nothing has been removed from it.
	From time.Time
	// Events is how many events were counted, Through the last one that was read.
	Events, Through uint64
}

// PastEvents are the events of a type.
type PastEvents struct {
	// First is when the first of them was created, which may be before Start.
	First time.Time
	// Counts has the events created in (Start + i·Step, Start + (i+1)·Step].
	Counts []uint32
}

// pastPoll is how often Past looks whether what was accepted has been applied.
const pastPoll = 100 * time.Millisecond

// ErrFenced says that another process has taken over this data directory's producer id.
var ErrFenced = errors.New("another usaged counts under this data directory's producer id: restart this one")

// Past counts the events in the journal by the time at which they were created. It waits until the store has all that had been
// accepted when it was called, since only then it is known which events are duplicates.
func (a *Aggregator) Past(ctx context.Context, cfg PastConfig) (*Past, error) {
	p := &pastCount{source: a.source, labels: a.labels, types: map[string]*PastEvents{}}
	p.past = Past{PastConfig: cfg, Types: map[string]*PastEvents{}, Late: make([]uint32, cfg.index(cfg.Until.UnixNano())+1), Through: a.journal.End()}
	if err := a.awaitApplied(ctx, p.past.Through); err != nil {
		return nil, err
	}
	after := a.journal.Start() - 1
	p.progress(after, after)
	if err := a.source.readVerdicts(ctx, after, &p.verdicts); err != nil {
		return nil, err
	}
	return &p.past, p.count(ctx, after)
}

// LateEvents returns how many events were counted that had been created an hour or more before they were accepted, and false
// while that is not known.
func (a *Aggregator) LateEvents() (n uint64, known bool) { return a.accounts.Late() }

// Accepted returns the number of the last event that was accepted, 0 where there is none.
func (a *Aggregator) Accepted() uint64 { return a.journal.End() }

// awaitApplied waits until the store has everything up to an event.
func (a *Aggregator) awaitApplied(ctx context.Context, through uint64) error {
	a.hurry.Add(1)
	defer a.hurry.Add(-1)
	ticker := time.NewTicker(pastPoll)
	defer ticker.Stop()
	for {
		if a.applier.isFenced() {
			return ErrFenced
		}
		if a.accounts.Known() && a.storeHas(ctx, through) {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// storeHas says that everything up to an event has been applied. Where the store cannot be asked that is not known.
func (a *Aggregator) storeHas(ctx context.Context, through uint64) bool {
	identity := a.identity // no producer is added once the store has been met
	for partition := range a.store.Partitions() {
		for k, producer := range identity.Producers {
			last := min(identity.until(k, partition), through)
			if last <= producer.From[partition] {
				continue
			}
			st, err := a.store.Producer(ctx, partition, producer.ID)
			if err != nil || st.Offset < last {
				return false
			}
		}
	}
	return true
}

// pastCount is a Past in the making.
type pastCount struct {
	source   source
	labels   *labels
	past     Past
	verdicts seqset.Set
	types    map[string]*PastEvents // by the name in the event
}

// count counts the events behind one.
func (p *pastCount) count(ctx context.Context, after uint64) error {
	reported, first := after, true
	return p.source.readRecords(ctx, after, func(rec *journal.Record) (bool, error) {
		if rec.Note != nil {
			return true, nil
		}
		if first && after > 0 {
			p.past.From = rec.At
		}
		first = false
		if rec.First > p.past.Through {
			return false, nil
		}
		if err := p.addRecord(rec); err != nil {
			return false, err
		}
		last := min(rec.First+uint64(rec.N)-1, p.past.Through)
		if last-reported >= rebuildCheckEvents || last == p.past.Through {
			reported = last
			p.progress(after, last)
		}
		return last < p.past.Through, nil
	})
}

// progress reports how far it is, behind after.
func (p *pastCount) progress(after, last uint64) {
	if p.past.Progress != nil {
		p.past.Progress(last-after, p.past.Through-after)
	}
}

// addRecord counts the events of a record.
func (p *pastCount) addRecord(rec *journal.Record) error {
	var v event.View
	for seq, entry := range rec.Each {
		if seq > p.past.Through || len(entry) == 0 || p.verdicts.Has(seq) {
			continue
		}
		if err := event.Parse(entry, &v); err != nil {
			return fmt.Errorf("event %d of the journal: %w", seq, err)
		}
		p.add(&v)
	}
	return nil
}

// add counts an event.
func (p *pastCount) add(v *event.View) {
	t := p.types[string(v.Counted)]
	if t == nil {
		t = p.typeOf(string(v.Counted))
	}
	p.past.Events++
	if created := time.Unix(0, v.CreatedNanos); t.First.IsZero() || created.Before(t.First) {
		t.First = created
	}
	i := p.past.index(v.CreatedNanos)
	if i < 0 || i >= len(t.Counts) {
		return
	}
	t.Counts[i]++
	if meter.Late(v) {
		p.past.Late[i]++
	}
}

// typeOf returns the counts of the label that a type has.
func (p *pastCount) typeOf(name string) *PastEvents {
	label, _ := p.labels.EventType(name) // what has been applied has a label
	t := p.past.Types[label]
	if t == nil {
		t = &PastEvents{Counts: make([]uint32, len(p.past.Late))}
		p.past.Types[label] = t
	}
	p.types[name] = t
	return t
}

// index returns the interval that a time lies in. An interval has its end and not its beginning, as ranges in PromQL.
func (cfg *PastConfig) index(nanos int64) int {
	return int((nanos-cfg.Start.UnixNano()+int64(cfg.Step)-1)/int64(cfg.Step)) - 1
}
