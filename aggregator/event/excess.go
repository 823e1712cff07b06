package event

import (
	"encoding/binary"
	"fmt"
)

// Excess says which names of an event are counted under Other because its sender has used up what it may add to the names that
// are counted. It is decided when the event is accepted and journalled with it, so that counting the event again gives the same
// totals. The event itself keeps its names.
type Excess uint8

// What is counted under Other.
const (
	// ExcessType is the event's type.
	ExcessType Excess = 1 << iota
	// ExcessLabels are its source, model, policies and the labels of metrics.
	ExcessLabels
	// ExcessReferences are its references, those of all meters.
	ExcessReferences

	excessShift = 5 // from a flag of an entry, see wire.go
)

var other = []byte(Other)

// Judge has each event of a batch judged, and notes in its entry what is counted under Other. The view is valid during the call.
func (b *Batch) Judge(judge func(v *View) Excess) error {
	var v View
	moved := map[string]int{}
	for rest := b.Entries; len(rest) > 0; {
		size, n := binary.Uvarint(rest)
		if n <= 0 || size > uint64(len(rest)-n) {
			return errEncoding
		}
		entry := rest[n : n+int(size)]
		rest = rest[n+int(size):]
		if err := Parse(entry, &v); err != nil {
			return fmt.Errorf("judge events: %w", err)
		}
		excess := judge(&v)
		entry[0] |= byte(excess) << excessShift
		if excess&ExcessType != 0 {
			moved[string(v.Type)]++
		}
	}
	b.move(moved)
	return nil
}

// move counts events of the types given under Other.
func (b *Batch) move(moved map[string]int) {
	if len(moved) == 0 {
		return
	}
	kept, others := b.Types[:0], 0
	for _, t := range b.Types {
		others += moved[t.Type]
		if t.N -= moved[t.Type]; t.N > 0 {
			kept = append(kept, t)
		}
	}
	b.Types = append(kept, TypeCount{Other, others})
}
