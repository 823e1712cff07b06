// Package seqset keeps sets of the sequence numbers of events.
//
// A [Set] takes as much memory as it has runs of consecutive numbers, however long these are: the events that are damaged, that
// are duplicates or that came before a meter mostly follow upon each other. A set belongs to one goroutine at a time.
//
//	var damaged seqset.Set
//	damaged.AddRun(seqset.Run{First: 7, Last: 9})
//	damaged.Add(10)
//	damaged.Has(8)     // true
//	damaged.Count(9)   // 3: how many up to and including 9
//	damaged.Runs()     // one run, from 7 to 10
package seqset

import "slices"

// Set is a set of sequence numbers. The zero value is empty, and ready to use.
type Set struct {
	runs []Run // ascending, not adjacent
}

// Run is a run of consecutive numbers, both ends included.
type Run struct {
	First uint64 `json:"first"`
	Last  uint64 `json:"last"`
}

// Add adds sequence numbers.
func (s *Set) Add(seqs ...uint64) {
	for _, seq := range seqs {
		s.AddRun(Run{seq, seq})
	}
}

// AddRun adds all numbers of a run.
func (s *Set) AddRun(r Run) {
	// Nearly always it comes after the last run.
	if n := len(s.runs); n > 0 && s.runs[n-1].Last+1 < r.First || n == 0 {
		s.runs = append(s.runs, r)
		return
	}
	i, _ := slices.BinarySearchFunc(s.runs, r.First, func(x Run, first uint64) int {
		if x.Last+1 < first {
			return -1
		}
		return 1
	})
	j := i
	for ; j < len(s.runs) && s.runs[j].First <= r.Last+1; j++ {
		r = Run{min(r.First, s.runs[j].First), max(r.Last, s.runs[j].Last)}
	}
	s.runs = slices.Replace(s.runs, i, j, r)
}

// Has says whether a number is in the set.
func (s *Set) Has(seq uint64) bool {
	if len(s.runs) == 0 || seq > s.runs[len(s.runs)-1].Last {
		return false
	}
	_, found := slices.BinarySearchFunc(s.runs, seq, func(x Run, seq uint64) int {
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

// Runs returns the runs in ascending order. They are the set's own: nobody may change them.
func (s *Set) Runs() []Run { return s.runs }

// Empty says that no number is in the set.
func (s *Set) Empty() bool { return len(s.runs) == 0 }

// All returns the sequence numbers in ascending order.
func (s *Set) All() []uint64 {
	var seqs []uint64
	for _, r := range s.runs {
		for seq := r.First; seq <= r.Last; seq++ {
			seqs = append(seqs, seq)
		}
	}
	return seqs
}

// Between returns how many sequence numbers after one, up to and including last, are in the set.
func (s *Set) Between(after, last uint64) uint64 {
	return s.Count(last) - s.Count(min(after, last))
}

// Count returns how many sequence numbers up to and including last are in the set.
func (s *Set) Count(last uint64) uint64 {
	n := uint64(0)
	for _, r := range s.runs {
		if r.First <= last {
			n += min(r.Last, last) - r.First + 1
		}
	}
	return n
}

// DropThrough removes everything up to and including seq.
func (s *Set) DropThrough(seq uint64) {
	i := 0
	for i < len(s.runs) && s.runs[i].Last <= seq {
		i++
	}
	s.runs = slices.Delete(s.runs, 0, i)
	if len(s.runs) > 0 && s.runs[0].First <= seq {
		s.runs[0].First = seq + 1
	}
}
