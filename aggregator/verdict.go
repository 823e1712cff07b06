package aggregator

import (
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
)

// A verdict note says which events were found to be duplicates. It is journalled before the batch without them is
// applied, so that replaying the journal gives the same answer. Runs are in ascending order.
//
//	byte     1: a verdict
//	uvarint  number of runs
//	uvarint  per run: first sequence number less the end of the run before, then the length
const noteVerdict = 1

var errNote = errors.New("not a note of this version: a newer usaged wrote it; start that version again")

func encodeVerdict(seqs []uint64) []byte {
	var set seqSet
	set.add(seqs...)
	note := binary.AppendUvarint([]byte{noteVerdict}, uint64(len(set.runs)))
	end := uint64(0)
	for _, r := range set.runs {
		note = binary.AppendUvarint(note, r.First-end)
		note = binary.AppendUvarint(note, r.Last-r.First+1)
		end = r.Last
	}
	return note
}

// decodeVerdict adds the sequence numbers of a note to set.
func decodeVerdict(note []byte, set *seqSet) error {
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
		set.addRun(run{first, end})
	}
	return nil
}

// seqSet is a set of sequence numbers, small where they are contiguous. The zero value is empty.
type seqSet struct {
	runs []run // ascending, not adjacent
}

type run struct {
	First uint64 `json:"first"`
	Last  uint64 `json:"last"`
}

func (s *seqSet) add(seqs ...uint64) {
	for _, seq := range seqs {
		s.addRun(run{seq, seq})
	}
}

func (s *seqSet) addRun(r run) {
	// Nearly always behind the last run.
	if n := len(s.runs); n > 0 && s.runs[n-1].Last+1 < r.First || n == 0 {
		s.runs = append(s.runs, r)
		return
	}
	i, _ := slices.BinarySearchFunc(s.runs, r.First, func(x run, first uint64) int {
		if x.Last+1 < first {
			return -1
		}
		return 1
	})
	j := i
	for ; j < len(s.runs) && s.runs[j].First <= r.Last+1; j++ {
		r = run{min(r.First, s.runs[j].First), max(r.Last, s.runs[j].Last)}
	}
	s.runs = slices.Replace(s.runs, i, j, r)
}

func (s *seqSet) has(seq uint64) bool {
	if len(s.runs) == 0 || seq > s.runs[len(s.runs)-1].Last {
		return false
	}
	_, found := slices.BinarySearchFunc(s.runs, seq, func(x run, seq uint64) int {
		switch {
		case x.Last < seq:
			return -1
		case x.First > seq:
			return 1
		}
		return 0
	})
	return found
}

// all returns the sequence numbers in ascending order.
func (s *seqSet) all() []uint64 {
	var seqs []uint64
	for _, r := range s.runs {
		for seq := r.First; seq <= r.Last; seq++ {
			seqs = append(seqs, seq)
		}
	}
	return seqs
}

// len returns how many sequence numbers up to and including last are in the set.
func (s *seqSet) len(last uint64) uint64 {
	n := uint64(0)
	for _, r := range s.runs {
		if r.First <= last {
			n += min(r.Last, last) - r.First + 1
		}
	}
	return n
}

// dropThrough removes everything up to and including seq.
func (s *seqSet) dropThrough(seq uint64) {
	i := 0
	for i < len(s.runs) && s.runs[i].Last <= seq {
		i++
	}
	s.runs = slices.Delete(s.runs, 0, i)
	if len(s.runs) > 0 && s.runs[0].First <= seq {
		s.runs[0].First = seq + 1
	}
}

// verdicts are the duplicates that are known after the position of the partition that is furthest back. They are safe for
// concurrent use. A verdict is for ever, so a set that knows too many does no harm; one that lacks some counts twice.
type verdicts struct {
	mu   sync.RWMutex
	set  seqSet
	last atomic.Uint64 // the last one: nearly all events that are asked for lie after it
}

func (v *verdicts) has(seq uint64) bool {
	if seq > v.last.Load() {
		return false
	}
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.set.has(seq)
}

func (v *verdicts) add(seqs ...uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.set.add(seqs...)
	v.noteLast()
}

// addAll adds those of a set.
func (v *verdicts) addAll(set *seqSet) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, r := range set.runs {
		v.set.addRun(r)
	}
	v.noteLast()
}

// dropThrough forgets everything up to and including seq.
func (v *verdicts) dropThrough(seq uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.set.dropThrough(seq)
	v.noteLast()
}

// noteLast is called with v.mu held.
func (v *verdicts) noteLast() {
	last := uint64(0)
	if n := len(v.set.runs); n > 0 {
		last = v.set.runs[n-1].Last
	}
	v.last.Store(last)
}
