package journal

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/prometheus/prometheus/tsdb/wlog"
)

const (
	// tornSuffix ends the names in damaged/ of what was cut off: <segment>.<offset>.torn.
	tornSuffix = ".torn"
	// keptTornBytes bounds them all. A crash tears one record, so that thousands fit; the oldest go first.
	keptTornBytes = 64 << 20
)

// cut is what recovery takes off the end of the journal: the bytes of a segment from an offset on, or the segment.
type cut struct {
	segment int
	from    int64
	remove  bool // the segment was made and never came to count: from is 0
	// whole says that there are records, and why they are no part of the journal: marks that repeat what the segment before
	// says, or a batch that was refused and whose number the next segment gives to another.
	whole bool
}

// apply makes the cut. It is the only place where something is cut off that this process has not written itself, so it proves
// first that the bytes can be read, twice alike, and that there is no record in them; and it keeps them in damaged/. A
// crash in between leaves them in both places, and the next start cuts again.
func (c cut) apply(r *recovery) error {
	path := wlog.SegmentName(r.dir, c.segment)
	data, err := c.read(r.dir)
	if err != nil {
		return err
	}
	kept, err := c.keep(r.dir, data)
	if err != nil {
		return fmt.Errorf("keep what is cut off the journal: %w", err)
	}
	if c.remove {
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("remove empty segment: %w", err)
		}
		if err := syncDir(r.dir); err != nil {
			return err
		}
	} else if err := truncate(path, c.from); err != nil {
		return err
	}
	if len(data) > 0 && (!c.remove || kept != "") {
		r.metrics.tornBytes.AddInt64(int64(len(data)))
		r.log.Warn("cut a torn tail off the journal", "segment", c.segment, "offset_bytes", c.from, "torn_bytes", len(data), "kept_in", kept)
	}
	return nil
}

// read returns the bytes to be cut off.
func (c cut) read(dir string) ([]byte, error) {
	data, err := readFrom(dir, c.segment, c.from)
	if err != nil {
		return nil, err
	}
	again, err := readFrom(dir, c.segment, c.from)
	if err != nil {
		return nil, err
	}
	unsteady := &ReadError{Path: wlog.SegmentName(dir, c.segment), Offset: c.from, Err: errUnsteady}
	if !bytes.Equal(data, again) {
		return nil, unsteady
	}
	if c.whole {
		return data, nil
	}
	_, found, err := firstBehind(dir, c.segment, c.from)
	if err == nil && found { // recovery has looked too, and found none
		err = unsteady
	}
	return data, err
}

// readFrom reads a segment from an offset to its end, from the disk.
func readFrom(dir string, index int, from int64) ([]byte, error) {
	f, err := openSegment(dir, index)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // it was only read
	if err := f.reopen(); err != nil {
		return nil, err
	}
	size, err := f.size()
	if err != nil {
		return nil, err
	}
	data := make([]byte, max(0, size-from))
	n, err := f.ReadAt(data, from)
	if err == io.EOF && n < len(data) { //nolint:errorlint // ReadAt returns it as it is
		return nil, &ReadError{Path: f.path, Offset: from + int64(n), Err: io.ErrUnexpectedEOF}
	}
	if isReadError(err) {
		return nil, err
	}
	return data, nil
}

// keep writes the bytes, without the zeros behind them, to damaged/ and returns the path: "" where there is nothing to keep.
func (c cut) keep(dir string, data []byte) (path string, err error) {
	data = bytes.TrimRight(data, "\x00")
	if len(data) == 0 || c.remove && c.whole {
		return "", nil
	}
	aside := filepath.Join(dir, damagedDir)
	if err := makeDir(aside); err != nil {
		return "", err
	}
	if err := makeRoom(aside, int64(len(data))); err != nil {
		return "", err
	}
	path = filepath.Join(aside, fmt.Sprintf("%08d.%d%s", c.segment, c.from, tornSuffix))
	return path, writeFile(path, data)
}

// makeRoom deletes the oldest torn tails, so that with one more of the given size they take no more than they may.
func makeRoom(aside string, size int64) error {
	entries, err := os.ReadDir(aside)
	if err != nil {
		return readError(aside, err)
	}
	var torn []fs.FileInfo
	total := size
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), tornSuffix) {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return readError(filepath.Join(aside, e.Name()), err)
		}
		torn = append(torn, info)
		total += info.Size()
	}
	slices.SortFunc(torn, func(a, b fs.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	for _, info := range torn {
		if total <= keptTornBytes {
			break
		}
		if err := os.Remove(filepath.Join(aside, info.Name())); err != nil {
			return err
		}
		total -= info.Size()
	}
	return nil
}
