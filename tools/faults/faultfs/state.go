package faultfs

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
)

// OpKind is a kind of recorded operation.
type OpKind string

// What is recorded.
const (
	OpCreate   OpKind = "create"
	OpLink     OpKind = "link"
	OpMkdir    OpKind = "mkdir"
	OpWrite    OpKind = "write"
	OpTruncate OpKind = "truncate"
	OpRename   OpKind = "rename"
	OpRemove   OpKind = "remove"
	OpSync     OpKind = "sync"
	OpSyncDir  OpKind = "syncdir"
)

// Op is a recorded operation that succeeded.
type Op struct {
	Kind OpKind
	// Path is that of an entry or of a directory, To the new one of a rename.
	Path, To string
	// File is the number of the file that is created, written, truncated or synced.
	File   uint64
	Offset int64
	Data   []byte
	Size   int64
}

// dir returns the directory whose entries the operation changes, and whether it changes any.
func (op *Op) dir() (string, bool) {
	switch op.Kind {
	case OpCreate, OpLink, OpMkdir, OpRemove:
		return filepath.Dir(op.Path), true
	case OpRename:
		return filepath.Dir(op.To), true
	default:
		return "", false
	}
}

// sector is what a disk writes as a whole.
const sector = 512

// State writes into the directory dst, which is empty, what a power cut after the operations may leave. Whatever was synced is
// there: the data of a file up to its last sync, the entries of a directory up to the directory's. Of what was done to a file
// later any part is, a write may be torn at any sector; the later changes of a directory take effect in their order until some
// point. What rng returns decides.
func State(ops []Op, rng *rand.Rand, dst string) error {
	s := &state{keep: []float64{0, 0.5, 0.9, 1}[rng.IntN(4)], rng: rng, dst: dst, names: map[string]uint64{}, data: map[uint64][]byte{}}
	s.findSyncs(ops)
	for i := range ops {
		if err := s.apply(i, &ops[i]); err != nil {
			return fmt.Errorf("apply operation %d, %s %s: %w", i, ops[i].Kind, ops[i].Path, err)
		}
	}
	for path, id := range s.names {
		target := filepath.Join(dst, path)
		if err := os.WriteFile(target, s.data[id], 0o600); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("write the state of %s: %w", path, err)
		}
	}
	return nil
}

type state struct {
	rng  *rand.Rand
	keep float64 // how likely a write that was not synced is there
	dst  string

	synced    map[uint64]int // file → its last sync
	dirSynced map[string]int // directory → the last of its changes that took effect
	names     map[string]uint64
	data      map[uint64][]byte
}

// findSyncs finds up to which operation each file and each directory is durable.
func (s *state) findSyncs(ops []Op) {
	s.synced, s.dirSynced = map[uint64]int{}, map[string]int{}
	later := map[string][]int{} // changes of a directory since its sync
	for i := range ops {
		op := &ops[i]
		switch op.Kind {
		case OpSync:
			s.synced[op.File] = i
		case OpSyncDir:
			s.dirSynced[clean(op.Path)], later[clean(op.Path)] = i, nil
		default:
			if dir, ok := op.dir(); ok {
				later[clean(dir)] = append(later[clean(dir)], i)
			}
		}
	}
	for _, op := range ops { // in a fixed order, so that a seed gives the same state again
		dir, ok := op.dir()
		changes := later[clean(dir)]
		if !ok || len(changes) == 0 {
			continue
		}
		if n := s.rng.IntN(len(changes) + 1); n > 0 {
			s.dirSynced[clean(dir)] = changes[n-1]
		}
		delete(later, clean(dir))
	}
}

func clean(dir string) string {
	if dir == "." {
		return ""
	}
	return dir
}

func (s *state) apply(i int, op *Op) error {
	if op.Kind == OpCreate {
		delete(s.data, op.File) // the number was that of a file that is gone
	}
	if dir, ok := op.dir(); ok {
		last, any := s.dirSynced[clean(dir)]
		if !any || i > last {
			return nil
		}
		return s.applyEntry(op)
	}
	last, synced := s.synced[op.File]
	durable := synced && i <= last
	switch op.Kind {
	case OpWrite:
		data := op.Data
		if !durable {
			if s.rng.Float64() >= s.keep {
				return nil
			}
			if s.rng.IntN(4) == 0 { // torn
				data = data[:min(len(data), sector*s.rng.IntN(len(data)/sector+1))]
			}
		}
		s.write(op.File, op.Offset, data)
	case OpTruncate:
		if durable || s.rng.Float64() < s.keep {
			s.truncate(op.File, op.Size)
		}
	default: // syncs change nothing
	}
	return nil
}

func (s *state) applyEntry(op *Op) error {
	switch op.Kind {
	case OpCreate, OpLink:
		s.names[op.Path] = op.File
	case OpMkdir:
		if err := os.MkdirAll(filepath.Join(s.dst, op.Path), 0o755); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
	case OpRemove:
		if _, ok := s.names[op.Path]; ok {
			delete(s.names, op.Path)
			return nil
		}
		if err := os.RemoveAll(filepath.Join(s.dst, op.Path)); err != nil {
			return fmt.Errorf("remove: %w", err)
		}
	case OpRename:
		return s.rename(op.Path, op.To)
	default:
	}
	return nil
}

// rename moves a file, or a directory with the files in it.
func (s *state) rename(from, to string) error {
	if id, ok := s.names[from]; ok {
		delete(s.names, from)
		s.names[to] = id
		return nil
	}
	for path, id := range s.names {
		if rest, ok := strings.CutPrefix(path, from+"/"); ok {
			delete(s.names, path)
			s.names[to+"/"+rest] = id
		}
	}
	err := os.Rename(filepath.Join(s.dst, from), filepath.Join(s.dst, to))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // what was to be renamed is not there after the cut
	}
	return err
}

func (s *state) write(id uint64, off int64, data []byte) {
	if len(data) == 0 {
		return
	}
	if end := off + int64(len(data)); end > int64(len(s.data[id])) {
		s.truncate(id, end)
	}
	copy(s.data[id][off:], data)
}

func (s *state) truncate(id uint64, size int64) {
	data := s.data[id]
	if size <= int64(len(data)) {
		s.data[id] = data[:size:size]
		return
	}
	s.data[id] = append(data, make([]byte, size-int64(len(data)))...)
}
