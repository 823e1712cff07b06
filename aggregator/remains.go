package aggregator

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"usaged/aggregator/datadir"
	"usaged/aggregator/event"
	"usaged/aggregator/ids"
	"usaged/aggregator/journal"
	"usaged/aggregator/seqset"
	"usaged/aggregator/store"
)

// Progress is what is asked of the store that a data directory was used with: store.Store has it.
type Progress interface {
	Producer(ctx context.Context, partition int, id string) (store.Producer, error)
	Apply(ctx context.Context, batch *store.Batch) (store.Outcome, error)
}

// Remains are the events of a data directory that no store has counted. The caller holds the directory's lock.
type Remains struct {
	dir      string
	identity *identity
	offsets  [][]uint64 // by producer and partition
	verdicts seqset.Set
	// ids are known from this time on: before it none can be that of a duplicate that is not counted.
	idsFrom time.Time
	end     uint64
}

// RemainsSummary counts the events of a journal.
type RemainsSummary struct {
	// Events are those to be sent, the first accepted at First, the last at Last.
	Events      uint64
	First, Last time.Time
	// Counted are in the store, Duplicates neither counted nor to be counted, Erased blanked, and Missing damaged.
	Counted, Duplicates, Erased, Missing uint64
}

// RemainsEvent is an event that is to be sent. It is valid until the function that got it returns. Its ID is empty where the
// daemon is to make one of Producer and Seq: the same for each sending.
type RemainsEvent struct {
	event.View
	Producer string
	Seq      uint64
}

// OpenRemains reads who the data directory counts as, asks the store how far its own events are counted, and reads its
// verdicts. partitions is the store's. Where st is nil nothing is taken as counted.
func OpenRemains(ctx context.Context, dir string, partitions int, st Progress) (*Remains, error) {
	id, _, err := readIdentity(dir)
	if err == nil && id == nil {
		err = fmt.Errorf("%s is not there: restore it from a backup", filepath.Join(dir, identityFile))
	}
	if err == nil {
		err = id.fit(partitions)
	}
	if err != nil {
		return nil, fmt.Errorf("read data directory: %w", err)
	}
	r := &Remains{dir: filepath.Join(dir, datadir.Journal), identity: id}
	for k := range id.Producers {
		of := make([]uint64, partitions)
		for i := range of {
			if st == nil {
				continue
			}
			if of[i], err = r.countedThrough(ctx, st, k, i); err != nil {
				return nil, fmt.Errorf("ask the store how far it has counted: %w", err)
			}
		}
		r.offsets = append(r.offsets, of)
	}
	return r, r.survey(ctx)
}

// countedThrough returns the last event of a producer that the store has counted and that is this directory's own: where
// another process took the last producer over, what it has counted since is its own.
func (r *Remains) countedThrough(ctx context.Context, st Progress, producer, partition int) (uint64, error) {
	if producer == len(r.identity.Producers)-1 {
		through, _, _, err := r.identity.owned(ctx, st, partition, r.digestOf(ctx))
		return through, err
	}
	known, err := st.Producer(ctx, partition, r.identity.Producers[producer].ID)
	return known.Offset, err
}

// digestOf returns what reads events of the journal.
func (r *Remains) digestOf(ctx context.Context) digester {
	return func(seq uint64) (digest uint64, ok bool, err error) {
		err = r.records(ctx, func(rec *journal.Record) error {
			if !ok {
				digest, ok = digestIn(rec, seq)
			}
			return nil
		})
		return digest, ok, err
	}
}

// survey collects the verdicts and looks for the first event that is not counted.
func (r *Remains) survey(ctx context.Context) error {
	all := r.allCounted()
	found := false
	return r.records(ctx, func(rec *journal.Record) error {
		if rec.Note != nil {
			return ids.DecodeVerdict(rec.Note, &r.verdicts)
		}
		r.end = rec.First + uint64(rec.N) - 1
		if found || r.end <= all {
			return nil
		}
		return eachView(rec, func(seq uint64, v *event.View) error {
			if !found && !r.counted(seq, v) {
				found, r.idsFrom = true, time.UnixMilli(v.AcceptedMillis).Add(-store.DuplicateWindow)
			}
			return nil
		})
	})
}

// allCounted returns an event up to which all are counted, in every partition.
func (r *Remains) allCounted() uint64 {
	least := allEvents
	for _, offset := range r.offsets[0] { // later producers have later events
		least = min(least, offset)
	}
	for i := range r.offsets[0] {
		least = min(least, r.identity.until(0, i))
	}
	return least
}

// counted says whether the store has an event.
func (r *Remains) counted(seq uint64, v *event.View) bool {
	partition := store.PartitionOf(v.UserID, len(r.offsets[0]))
	return seq <= r.offsets[r.identity.producerOf(partition, seq)][partition]
}

// records calls f for the records of the journal.
func (r *Remains) records(ctx context.Context, f func(*journal.Record) error) error {
	reader, err := journal.OpenReader(r.dir)
	if err != nil {
		return err
	}
	return eachRecord(ctx, reader, func(rec *journal.Record) (bool, error) { return true, f(rec) })
}

// eachView calls f for the events of a record that were not erased.
func eachView(rec *journal.Record, f func(seq uint64, v *event.View) error) error {
	var v event.View
	for seq, entry := range rec.Each {
		if len(entry) == 0 {
			continue
		}
		if err := event.Parse(entry, &v); err != nil {
			return fmt.Errorf("event %d of the journal: %w: use the usagectl of the version that wrote it", seq, err)
		}
		if err := f(seq, &v); err != nil {
			return err
		}
	}
	return nil
}

// End returns the number of the journal's last event.
func (r *Remains) End() uint64 { return r.end }

// Each calls f for every event behind after that is to be sent, in their order, until it returns an error. What the summary says
// is of the whole journal.
//
// Duplicates are judged as the applier does: by the journalled verdicts, and by the ids of this journal within a day. An id
// that was used again more than a day later names another event; where both are to be sent the second goes without it, since
// those who get them at one time would take it for a repetition. The ids that role user sent are left out too: a producer's
// token sends the events, and its ids are apart from those of users.
func (r *Remains) Each(ctx context.Context, after uint64, f func(e *RemainsEvent) error) (*RemainsSummary, error) {
	sum := &RemainsSummary{}
	sent := remainsIDs{map[[16]byte]int64{}, map[[16]byte]bool{}}
	all := r.allCounted()
	err := r.records(ctx, func(rec *journal.Record) error {
		sum.Missing += rec.Gap
		if rec.First+uint64(rec.N)-1 <= all && rec.At.Before(r.idsFrom) {
			sum.Counted += uint64(rec.N)
			return nil
		}
		seen := uint64(0)
		e := RemainsEvent{Producer: rec.Producer}
		err := eachView(rec, func(seq uint64, v *event.View) error {
			seen++
			counted := r.counted(seq, v)
			duplicate, again := r.judge(sent, seq, v, counted)
			switch {
			case counted:
				sum.Counted++
				return nil
			case duplicate:
				sum.Duplicates++
				return nil
			}
			sum.note(v)
			if seq <= after {
				return nil
			}
			e.View, e.Seq = *v, seq
			if again || v.Bound {
				e.ID = nil
			}
			return f(&e)
		})
		sum.Erased += uint64(rec.N) - seen
		return err
	})
	return sum, err
}

// remainsIDs has for each id, by its digest, when the last event with it that is no duplicate was accepted, and whether that one
// is to be sent.
type remainsIDs struct {
	accepted map[[16]byte]int64
	sent     map[[16]byte]bool
}

// judge says whether an event is a duplicate, and otherwise whether its id is that of another event that is to be sent too.
func (r *Remains) judge(sent remainsIDs, seq uint64, v *event.View, counted bool) (duplicate, again bool) {
	if len(v.ID) == 0 || v.AcceptedMillis < r.idsFrom.UnixMilli() {
		return false, false
	}
	if r.verdicts.Has(seq) {
		return true, false
	}
	digests := ids.Unscoped().Of(v) // older ids that are a day away are no duplicates anyway
	if digests.Near(sent.accepted, v.AcceptedMillis) {
		return true, false
	}
	again = sent.sent[digests.Claim]
	sent.accepted[digests.Claim], sent.sent[digests.Claim] = v.AcceptedMillis, !counted
	return false, again
}

func (s *RemainsSummary) note(v *event.View) {
	at := time.UnixMilli(v.AcceptedMillis).UTC()
	if s.Events == 0 {
		s.First = at
	}
	s.Events++
	s.Last = at
}
