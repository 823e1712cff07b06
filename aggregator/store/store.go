// Package store defines what the rollups are kept in: the contract that the Redis and the SQLite store share.
//
// A store holds, for each UTC day, the number of events per type and the cells of every rollup (user → count, reference
// → total); for each producer, how far its journal has been applied and its lifetime totals; and the claims on the event
// ids of the last days. All of it can be rebuilt from the producers' journals and checkpoints.
//
// Users are spread over a fixed number of partitions. A partition is a chain of its own: everything about one user lies
// in one partition, and each producer has an offset in each partition. [Store.Apply] moves one chain forward by
// compare-and-set, which is what makes a batch count exactly once whatever is retried, lost or rolled back.
//
// Package storetest holds every promise made here; an implementation is done when storetest.Run passes.
package store

import (
	"context"
	"errors"
	"hash/fnv"
	"time"

	"usaged/aggregator/event"
	"usaged/aggregator/meter"
)

// Limits that Apply enforces where the rollup is written. What exceeds them is counted under [event.Other], which takes no
// room itself. New types and references are given room in the order that the delta says.
const (
	// MaxTypesPerDay bounds the event types of one day (in one partition). The events of a type that is refused are
	// counted in the type and in the type rollup [event.Other]. Types in meter.DayDelta.Reserved are always admitted, and are not
	// counted among these.
	MaxTypesPerDay = 1_000
	// MaxReferencesPerDay bounds the keys of one [meter.ByReference] rollup of one day in one partition.
	MaxReferencesPerDay = 10_000
)

// How long ids are remembered.
const (
	// DuplicateWindow is the distance in acceptance time within which two events with the same id are one.
	DuplicateWindow = 24 * time.Hour
	// ClaimLifetime is how long a claim must be kept after the acceptance that it records.
	ClaimLifetime = 72 * time.Hour
)

var (
	// ErrFenced says that a process with a higher session has taken over the producer. The batch changed nothing, and
	// no later batch of this session will.
	ErrFenced = errors.New("another process has taken over this producer id")
	// ErrIncompatible says that the store was made with another schema or another number of partitions.
	ErrIncompatible = errors.New("the store was made with another schema or number of partitions")
)

// Store is a set of rollups. All methods are safe for concurrent use. A method that returns an error may have taken effect, or
// may still do so; the caller repeats it, which is harmless.
type Store interface {
	// Partitions returns the number of partitions, which never changes in the life of a store.
	Partitions() int

	// MaxCells returns how many cells a batch should hold at most for Apply to stay short, 0 for no limit. Apply takes a
	// larger batch too.
	MaxCells() int

	// Apply adds one batch of one producer to one partition. It is atomic, durable on return, and compare-and-set:
	//
	//  1. If the store knows a higher session of the producer in the partition it changes nothing and returns ErrFenced;
	//     Outcome.Offset is then the producer's offset at the moment when the first higher session took over, so that
	//     the caller knows what was counted of its own events.
	//  2. Unless the producer's offset in the partition equals batch.Prev (an unknown producer has offset 0) it changes
	//     nothing and returns the offset found, so that the caller rewinds or skips to it.
	//  3. If one of batch.Claims or batch.Checks is taken it changes nothing and returns which ones are.
	//  4. Otherwise it adds batch.Days, overwrites the lifetime totals in batch.Totals, records the claims, sets the
	//     offset to batch.Last and the session to batch.Session, and gives every touched day a new version. A cell that
	//     would exceed meter.MaxTotal stays there.
	//
	// A claim is taken when a claim with the same digest exists whose acceptance lies less than DuplicateWindow
	// before or after, in the same partition. The claims of one batch never conflict with each other.
	//
	// No reader ever sees half a batch. A batch with days must end behind Prev: repeating one that doesn't would count twice,
	// so it is refused with an error, as is one whose Last lies before Prev. The batch is not modified and not kept.
	// Where ctx has ended already nothing is changed.
	Apply(ctx context.Context, batch *Batch) (Outcome, error)

	// Producer returns what one partition knows of a producer: offset, session and lifetime totals, from one moment.
	// A producer that it doesn't know has offset 0, session 0 and no totals.
	Producer(ctx context.Context, partition int, id string) (Producer, error)

	// Producers returns all producers, their totals summed over the partitions, Offset being the lowest, Session the
	// highest of any partition; in the order of their ids. In a partition that doesn't know it a producer has offset 0.
	Producers(ctx context.Context) ([]Producer, error)

	// Versions returns one opaque version for each of the days: "" for a day that holds nothing, and otherwise a string
	// that changes with every Apply that touches the day and is never used again, not even by a store that was
	// wiped and rebuilt.
	Versions(ctx context.Context, days []event.Day) ([]string, error)

	// Types returns the number of events per type for each of the days, summed over the partitions. A day that holds
	// nothing has an empty map.
	Types(ctx context.Context, days []event.Day) ([]map[string]uint64, error)

	// Sum calls yield once for every key of a rollup with its total over the days and the partitions, in no order. key is
	// valid only during the call, which may hold up the read: it must be quick.
	Sum(ctx context.Context, rollup meter.Rollup, days []event.Day, yield func(key []byte, total uint64)) error

	// Expire removes the days before oldest and the claims accepted before now − ClaimLifetime. Lifetime totals stay. A
	// store whose keys expire by themselves does nothing.
	Expire(ctx context.Context, oldest event.Day, now time.Time) error

	// Close releases the store. It is not called while another method runs.
	Close() error
}

// Extender is a store whose days expire by themselves at a time that is noted when they are written.
type Extender interface {
	// Extend has the days expire when the present retention says so, where they would expire earlier; all that is in a day
	// expires together. rollups are those beside the rollups of types. It works in small steps beside Apply. It also removes
	// the count of an event type whose users are gone, because they did not expire together, and returns how many types
	// that were: what is left of them is an answer that contradicts another.
	Extend(ctx context.Context, days []event.Day, rollups []meter.Rollup) (removed int, err error)
}

// Batch is one producer's next contribution to one partition.
type Batch struct {
	Producer  string
	Session   uint64
	Partition int
	// Prev is the sequence number with which the producer's last batch for this partition ended, Last the one with which
	// this batch ends. A batch without days, totals and claims only moves the offset; Prev may then equal Last.
	Prev, Last uint64
	Days       map[event.Day]*meter.DayDelta
	// Totals are the new absolute values of those lifetime totals that changed.
	Totals meter.Totals
	Claims []Claim
	// Checks must not be taken either, but are not recorded.
	Checks []Claim
}

// Claim reserves an event id for the event that is counted.
type Claim struct {
	// Digest stands for the id and its scope, see DigestOf.
	Digest [16]byte
	// AcceptedMillis is when the event was accepted, in milliseconds since 1970.
	AcceptedMillis int64
}

// Outcome says what Apply did.
type Outcome struct {
	// Applied is true where the batch took effect, and Offset then equals batch.Last. Otherwise Offset is what the store
	// holds.
	Applied bool
	Offset  uint64
	// Taken are the indices of the claims that were taken already, in ascending order; the batch did not take effect. Those of
	// the batch's checks follow those of its claims: len(Claims) is the first check.
	Taken []int
	// Overflow counts what was added under event.Other for want of room. Where the batch did not take effect because of the
	// offset it is that of the batch which ended at Offset, whose reply may have been lost. A store forgets it with the
	// process whose batch it was.
	Overflow Overflow
}

// Overflow counts what the limits on types and references turned away.
type Overflow struct {
	// Types is the number of events whose type was refused.
	Types uint64
	// References is the number of cells (not events) whose reference was refused.
	References uint64
}

// Producer is the progress of one producer.
type Producer struct {
	ID      string
	Offset  uint64
	Session uint64
	Totals  meter.Totals
}

// PartitionOf returns the partition of a user: a 32-bit FNV-1a hash of the user id, modulo the number of partitions. It
// must never change, or users would be counted in two partitions.
func PartitionOf(userID []byte, partitions int) int {
	if partitions == 1 {
		return 0
	}
	h := fnv.New32a()
	h.Write(userID)
	return int(h.Sum32() % uint32(partitions))
}
