package aggregator

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/uuid"

	"usaged/aggregator/durable"
)

// identity is who this data directory counts as: the file <data>/producer.json.
//
// Normally it names one producer, whose id is the journal's. Another is added when the store turns out to hold events
// under the old id that are not in our journal: the data directory was restored from a snapshot, or copied and both
// copies ran. What was accepted since then counts under the new id, so that nothing is taken for counted that isn't.
type identity struct {
	path  string
	plain bool // the file has no checksum yet

	// Session is the highest session that this directory has used. It is durable before it is used.
	Session uint64 `json:"session"`
	// Fenced says that another process has taken over the last producer, so that the next start must add one.
	Fenced bool `json:"fenced,omitempty"`
	// Shared says that another data directory has counted under one of the ids.
	Shared bool `json:"shared,omitempty"`
	// Producers are in the order of their time. A producer counts the events behind From up to the next one's From.
	Producers []producerSpan `json:"producers"`
}

type producerSpan struct {
	ID string `json:"id"`
	// From has, per partition, the sequence number behind which the producer's events begin.
	From []uint64 `json:"from"`
}

var identityFormat = durable.Format{Version: 2, Plain: 1}

// openIdentity reads the file, or makes it for a journal that is new.
func openIdentity(dir, journalID string, partitions int) (*identity, error) {
	id, err := readIdentity(dir)
	if errors.Is(err, os.ErrNotExist) {
		id.Producers = []producerSpan{{ID: journalID, From: make([]uint64, partitions)}}
		return id, id.save()
	}
	if err != nil {
		return nil, err
	}
	if id.Session == 0 { // nothing has ever been applied, so it is not bound to a number of partitions yet
		id.Producers[0].From = make([]uint64, partitions)
	}
	if id.plain {
		if err := id.save(); err != nil {
			return nil, err
		}
	}
	for _, p := range id.Producers {
		if len(p.From) != partitions {
			return nil, fmt.Errorf("%s was made for %d partitions and the store has %d: start with the store this data directory was used with",
				id.path, len(p.From), partitions)
		}
	}
	return id, nil
}

// readIdentity reads the file. Where there is none the error is os.ErrNotExist and the identity empty.
func readIdentity(dir string) (*identity, error) {
	id := &identity{path: filepath.Join(dir, "producer.json")}
	plain, err := identityFormat.LoadJSON(id.path, id)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return id, err
	case errors.Is(err, durable.ErrVersion):
		return id, fmt.Errorf("read who this data directory counts as: %w: start the newer usaged that wrote it", err)
	case err != nil:
		return id, fmt.Errorf("read who this data directory counts as: %w: restore it from a backup", err)
	case len(id.Producers) == 0:
		return id, fmt.Errorf("read who this data directory counts as: %s is %w: it names no producer: restore it from a backup", id.path, durable.ErrDamaged)
	}
	id.plain = plain
	return id, nil
}

// Partitions returns the number of partitions that the store had with which a data directory was used, 0 where it has not
// been used with any yet.
func Partitions(dir string) (int, error) {
	id, err := readIdentity(dir)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if id.Session == 0 {
		return 0, nil
	}
	return len(id.last().From), nil
}

func (id *identity) save() error {
	return identityFormat.SaveJSON(id.path, id, 0o640)
}

// last is the producer that new events count under.
func (id *identity) last() *producerSpan { return &id.Producers[len(id.Producers)-1] }

// until returns where a producer's events in a partition end.
func (id *identity) until(producer, partition int) uint64 {
	if producer+1 == len(id.Producers) {
		return allEvents
	}
	return id.Producers[producer+1].From[partition]
}

// producerOf returns the index of the producer that an event counts under.
func (id *identity) producerOf(partition int, seq uint64) int {
	for k := range id.Producers {
		if seq <= id.until(k, partition) {
			return k
		}
	}
	return len(id.Producers) - 1
}

// add begins a new producer.
func (id *identity) add(from []uint64) error {
	next, err := uuid.NewV7()
	if err != nil {
		return err
	}
	id.Producers = append(id.Producers, producerSpan{ID: next.String(), From: from})
	id.Fenced, id.Shared = false, true
	return id.save()
}
