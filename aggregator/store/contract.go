package store

import (
	"fmt"
	"time"
)

// What every store has to decide alike stands here, so that each of them asks for the answer and none has its own.

// A store looks for the claims of an id on the day of its acceptance and on the two days beside it, which are all that lie
// within the window. This does not compile for a longer one.
const _ = uint64(24*time.Hour - DuplicateWindow)

// Near says whether two acceptances of an id, in milliseconds since 1970, are so close that they are one event's.
func Near(a, b int64) bool { return max(a-b, b-a) < DuplicateWindow.Milliseconds() }

// Check refuses a batch that no correct caller sends: one that could be applied twice, or that no reader would see.
func (b *Batch) Check(partitions int) error {
	switch {
	case b.Partition < 0 || b.Partition >= partitions:
		return fmt.Errorf("partition %d of %d", b.Partition, partitions)
	case b.Last < b.Prev:
		return fmt.Errorf("it ends at %d, before its start at %d", b.Last, b.Prev)
	case b.Last == b.Prev && len(b.Days) > 0:
		return fmt.Errorf("it counts something but doesn't move the offset %d", b.Prev)
	}
	return nil
}

// Merge adds what another partition knows of the producer, as Producers sums it up. p.Totals must not be nil.
func (p *Producer) Merge(other Producer) {
	p.Offset = min(p.Offset, other.Offset)
	p.Session = max(p.Session, other.Session)
	for series, n := range other.Totals {
		p.Totals[series] += n
	}
}
