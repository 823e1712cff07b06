package ids

import (
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"

	"usaged/aggregator/seqset"
)

// A verdict note says which events were found to be duplicates. It is journalled before the batch without them is
// applied, so that replaying the journal gives the same answer. Runs are in ascending order.
//
//	byte     1: a verdict
//	uvarint  number of runs
//	uvarint  per run: first sequence number less the end of the run before, then the length
const noteVerdict = 1

var errNote = errors.New("not a note of this version: a newer usaged wrote it; start that version again")

// EncodeVerdict returns the note that says of events that they are duplicates.
func EncodeVerdict(seqs []uint64) []byte {
	var set seqset.Set
	set.Add(seqs...)
	note := binary.AppendUvarint([]byte{noteVerdict}, uint64(len(set.Runs())))
	end := uint64(0)
	for _, r := range set.Runs() {
		note = binary.AppendUvarint(note, r.First-end)
		note = binary.AppendUvarint(note, r.Last-r.First+1)
		end = r.Last
	}
	return note
}

// DecodeVerdict adds the sequence numbers of a note to set.
func DecodeVerdict(note []byte, set *seqset.Set) error {
	if len(note) == 0 {
		return nil // a note of the journal's own
	}
	if note[0] != noteVerdict {
		return errNote
	}
	rest := note[1:]
	next := func() uint64 {
		x, n := binary.Uvarint(rest)
		rest = rest[max(n, 0):]
		return x
	}
	end := uint64(0)
	for range next() {
		first, length := end+next(), next()
		if length == 0 {
			return errNote
		}
		end = first + length - 1
		set.AddRun(seqset.Run{First: first, Last: end})
	}
	return nil
}

// Verdicts are the duplicates that are known after the position of the partition that is furthest back. They are safe for
// concurrent use. A verdict is for ever, so a set that knows too many does no harm; one that lacks some counts twice.
type Verdicts struct {
	mu   sync.RWMutex
	set  seqset.Set
	last atomic.Uint64 // the last one: nearly all events that are asked for lie after it
}

// Has says whether an event is known to be a duplicate.
func (v *Verdicts) Has(seq uint64) bool {
	if seq > v.last.Load() {
		return false
	}
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.set.Has(seq)
}

// Add adds events.
func (v *Verdicts) Add(seqs ...uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.set.Add(seqs...)
	v.noteLast()
}

// AddAll adds those of a set.
func (v *Verdicts) AddAll(set *seqset.Set) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, r := range set.Runs() {
		v.set.AddRun(r)
	}
	v.noteLast()
}

// DropThrough forgets everything up to and including seq.
func (v *Verdicts) DropThrough(seq uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.set.DropThrough(seq)
	v.noteLast()
}

// noteLast is called with v.mu held.
func (v *Verdicts) noteLast() {
	last := uint64(0)
	if runs := v.set.Runs(); len(runs) > 0 {
		last = runs[len(runs)-1].Last
	}
	v.last.Store(last)
}
