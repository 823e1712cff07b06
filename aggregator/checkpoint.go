package aggregator

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"usaged/aggregator/durable"
	"usaged/aggregator/ledger"
	"usaged/aggregator/meter"
	"usaged/aggregator/seqset"
)

// checkpoint is what has been counted at the end of a segment of the journal: <data>/checkpoints/<segment>.json. It
// stands in for the segments up to that one when the rollups are rebuilt after those have been deleted.
type checkpoint struct {
	Segment int `json:"segment"`
	// Seq is the sequence number of the segment's last event.
	Seq uint64 `json:"seq"`
	// Accepted has the number of events per type up to Seq, without the damaged ones, which are in Damaged.
	Accepted ledger.Counts `json:"accepted"`
	Damaged  []seqset.Run  `json:"damaged,omitempty"`
	// Newest is when the last event of each type was accepted.
	Newest ledger.Times `json:"newest,omitempty"`
	// Totals are the lifetime totals per producer id and partition.
	Totals map[string][]meter.Totals `json:"totals"`
}

var checkpointFormat = durable.Format{Version: 2, Plain: 1}

// checkpoints are the files of one directory, by ascending segment. They are written by the applier, and safe to be read meanwhile.
type checkpoints struct {
	dir string

	mu   sync.Mutex
	list []*checkpoint
}

func openCheckpoints(dir string) (*checkpoints, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if err := durable.RemoveTemporary(dir); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	c := &checkpoints{dir: dir}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".json")
		if _, err := strconv.Atoi(name); !ok || err != nil {
			continue
		}
		cp, err := readCheckpoint(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		c.list = append(c.list, cp)
	}
	slices.SortFunc(c.list, func(a, b *checkpoint) int { return a.Segment - b.Segment })
	return c, nil
}

func readCheckpoint(path string) (*checkpoint, error) {
	cp := &checkpoint{}
	plain, err := checkpointFormat.LoadJSON(path, cp)
	switch {
	case errors.Is(err, durable.ErrDamaged):
		return nil, fmt.Errorf("read checkpoint: %w: restore it from a backup, or delete it if newer checkpoints exist and the database is whole", err)
	case errors.Is(err, durable.ErrVersion):
		return nil, fmt.Errorf("read checkpoint: %w: start the newer usaged that wrote it", err)
	case err != nil:
		return nil, fmt.Errorf("read checkpoint: %w", err)
	case plain:
		return cp, checkpointFormat.SaveJSON(path, cp, 0o640)
	}
	return cp, nil
}

func (c *checkpoints) path(segment int) string {
	return filepath.Join(c.dir, fmt.Sprintf("%08d.json", segment))
}

// write makes a checkpoint durable.
func (c *checkpoints) write(cp *checkpoint) error {
	if err := checkpointFormat.SaveJSON(c.path(cp.Segment), cp, 0o640); err != nil {
		return fmt.Errorf("write checkpoint of segment %d: %w", cp.Segment, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list = append(c.list, cp)
	return nil
}

// newestSeq returns the last event of the newest checkpoint, 0 where there is none.
func (c *checkpoints) newestSeq() uint64 { return c.newest().Seq }

// totalsAt returns the newest checkpoint that lies at or before seq, nil if there is none, and a copy of what it has counted for
// a producer in a partition.
func (c *checkpoints) totalsAt(seq uint64, id string, partition int) (*checkpoint, meter.Totals) {
	c.mu.Lock()
	defer c.mu.Unlock()
	totals := meter.Totals{}
	cp := c.at(seq)
	if cp != nil && partition < len(cp.Totals[id]) {
		maps.Copy(totals, cp.Totals[id][partition])
	}
	return cp, totals
}

// newest returns the newest checkpoint, or one of nothing.
func (c *checkpoints) newest() *checkpoint {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.list) == 0 {
		return &checkpoint{Segment: -1, Accepted: ledger.Counts{}, Newest: ledger.Times{}, Totals: map[string][]meter.Totals{}}
	}
	return c.list[len(c.list)-1]
}

// at returns the newest checkpoint that lies at or before seq, nil if there is none. c.mu is held.
func (c *checkpoints) at(seq uint64) *checkpoint {
	for _, cp := range slices.Backward(c.list) {
		if cp.Seq <= seq {
			return cp
		}
	}
	return nil
}

// prune deletes the checkpoints that no rebuild can need: all before the one at which the kept journal begins.
func (c *checkpoints) prune(start uint64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	base := c.at(start - 1)
	var errs []error
	for len(c.list) > 0 && base != nil && c.list[0] != base {
		if err := os.Remove(c.path(c.list[0].Segment)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
		c.list = c.list[1:]
	}
	return errors.Join(errs...)
}

// rebase keeps the newest checkpoint alone, as that of the segment before first: where the journal was lost its segments are
// numbered anew, and the checkpoints of the old ones would be taken for theirs.
func (c *checkpoints) rebase(first int) error {
	if len(c.list) == 0 || c.newest().Segment < first {
		return nil
	}
	old := c.list
	cp := c.newest().clone()
	cp.Segment, c.list = first-1, nil
	if err := c.write(cp); err != nil {
		return err
	}
	var errs []error
	for _, before := range old {
		if before.Segment == cp.Segment {
			continue
		}
		if err := os.Remove(c.path(before.Segment)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// clone copies what a checkpoint counts, as the beginning of the next.
func (cp *checkpoint) clone() *checkpoint {
	next := &checkpoint{
		Seq: cp.Seq, Accepted: maps.Clone(cp.Accepted), Damaged: slices.Clone(cp.Damaged), Newest: ledger.Times{}, Totals: map[string][]meter.Totals{},
	}
	maps.Copy(next.Newest, cp.Newest)
	for id, partitions := range cp.Totals {
		for _, totals := range partitions {
			next.Totals[id] = append(next.Totals[id], maps.Clone(totals))
		}
	}
	return next
}

// totals returns the totals of a producer in a partition, which the caller may change.
func (cp *checkpoint) totals(id string, partition, partitions int) meter.Totals {
	for len(cp.Totals[id]) < partitions {
		cp.Totals[id] = append(cp.Totals[id], meter.Totals{})
	}
	return cp.Totals[id][partition]
}
