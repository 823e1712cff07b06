package journal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/prometheus/tsdb/wlog"
	"github.com/prometheus/prometheus/util/compression"
)

const (
	// damagedDir is where the originals of repaired segments go, inside the journal.
	damagedDir = "damaged"
	// repairDir is where replacements are written. What an interrupted repair left there is discarded.
	repairDir = "repair.tmp"
)

// Range is a range of events, both ends included. Last is 0 where it cannot be told how many follow First.
type Range struct{ First, Last uint64 }

// RepairedSegment says what became of one segment.
type RepairedSegment struct {
	Segment int
	// Kept is the number of events in the replacement, Lost the events that are missing. Lost is empty where only a
	// mark or a note was hit.
	Kept uint64
	Lost []Range
	// Places is the number of bad places met.
	Places int
	// Original is the path where the damaged file is now, "" where there was none.
	Original string
}

// Repair replaces every damaged segment in dir by one that holds all of its whole records with their numbers, and moves
// the original to dir/damaged. One that is missing is replaced by one that holds a gap. It returns one entry for each segment that it replaced, in order. A torn tail is not
// damage, and left to Open. Repair may be interrupted and run again at any time, but not beside a daemon: the caller
// holds the lock of the data directory.
func Repair(dir string) ([]RepairedSegment, error) {
	indexes, _, known, err := listSegments(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, fmt.Errorf("repair journal: %w", err)
	}
	r := repair{dir: dir, known: known, at: time.UnixMilli(0)}
	oldest, err := r.begin(indexes)
	if err != nil {
		return nil, fmt.Errorf("repair journal: %w", err)
	}
	if oldest > r.newest { // there never was one
		return nil, nil
	}
	if r.producer, err = loadID(dir); err != nil {
		return nil, fmt.Errorf("repair journal: %w", err)
	}
	for index := oldest; index <= r.newest; index++ {
		if err := r.segment(index, indexes); err != nil {
			return r.report, fmt.Errorf("repair journal segment %d: %w", index, err)
		}
	}
	return r.report, nil
}

// repair goes through the segments from the oldest to the newest.
type repair struct {
	dir      string
	producer uuid.UUID
	known    *bounds   // nil where there is no such file
	newest   int       // segment, which may be missing
	next     uint64    // number that the next event must have
	at       time.Time // stamp of the last record met
	report   []RepairedSegment
}

// begin finds out which segments there must be, and with which event the oldest begins.
func (r *repair) begin(indexes []int) (oldest int, err error) {
	r.newest, r.next = -1, 1
	if r.known != nil {
		oldest, r.newest, r.next = r.known.Oldest, r.known.Newest, r.known.First
	}
	if len(indexes) == 0 {
		return oldest, nil
	}
	r.newest = max(r.newest, indexes[len(indexes)-1])
	if r.known != nil && indexes[0] > oldest {
		return oldest, nil
	}
	oldest = indexes[0]
	r.next = 1
	if oldest > 0 { // what lies before was removed on purpose
		r.next, err = firstNumber(r.dir, indexes)
	}
	return oldest, err
}

// segment replaces one segment if it is damaged.
func (r *repair) segment(index int, indexes []int) error {
	begin := r.next
	found, err := r.walk(index, indexes, func(header, []byte) error { return nil })
	if err != nil || !found.damaged() {
		return err
	}
	r.next = begin
	report := RepairedSegment{Segment: index, Kept: found.kept, Lost: found.lost, Places: found.places}
	if err := r.rewrite(index, indexes); err != nil {
		return err
	}
	if report.Original, err = r.setAside(index); err != nil {
		return err
	}
	if err := r.replace(index); err != nil {
		return err
	}
	r.report = append(r.report, report)
	return nil
}

// findings is what walk met in a segment.
type findings struct {
	kept   uint64
	lost   []Range
	places int
}

func (f findings) damaged() bool { return f.places > 0 }

// walk calls keep for each record that the repaired segment holds, gaps included, and sets r.next to the number that
// follows it.
func (r *repair) walk(index int, indexes []int, keep func(header, []byte) error) (findings, error) {
	w := walker{repair: r, keep: keep}
	missing := false
	last := index == r.newest
	err := withScanner(r.dir, index, func(s *scanner) error { return w.scan(s, last) })
	if errors.Is(err, fs.ErrNotExist) {
		w.places++
		missing = true
		err = nil
	}
	if err != nil {
		return w.findings, err
	}
	if last {
		return w.findings, w.end(missing)
	}
	if !slices.Contains(indexes, index+1) {
		return w.findings, nil
	}
	behind, err := summarizeEnds(r.dir, index+1)
	if err != nil || behind.records == 0 { // what is missing is put down to that one
		return w.findings, err
	}
	return w.findings, w.expect(behind.first, behind.newest)
}

// walker is one walk through one segment.
type walker struct {
	*repair
	findings
	keep func(header, []byte) error
}

func (w *walker) scan(s *scanner, last bool) error {
	for {
		h, body, err := s.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if bad, ok := errors.AsType[*badPlaceError](err); ok {
			found, err := s.skipBad()
			if err != nil {
				return err
			}
			if found {
				w.places++
				continue
			}
			return w.tail(s, bad.offset, last)
		}
		if err != nil {
			return err
		}
		if err := w.record(h, body); err != nil {
			return err
		}
	}
}

// tail judges a bad place with no whole record behind it in the segment.
func (w *walker) tail(s *scanner, offset int64, last bool) error {
	if !last {
		w.places++
		return nil
	}
	if offset > 0 {
		return nil // torn
	}
	data, err := s.dataEnd()
	if err != nil || data <= openingBytes {
		return err // torn too
	}
	w.places++
	w.lost = append(w.lost, Range{First: w.next})
	return nil
}

// end writes a gap where events are missing that are known to have been written. missing says that the newest segment is.
func (w *walker) end(missing bool) error {
	if w.known == nil {
		return nil
	}
	begin := w.next
	if err := w.expect(w.known.Last+1, w.at); err != nil {
		return err
	}
	if missing && !w.known.Closed {
		w.lost = append(w.lost, Range{First: w.next})
	}
	if w.next == begin {
		return nil
	}
	// An empty note, because a reader tells of a gap with the record behind it, and there may never be another.
	return w.keep(header{kind: kindNote, producer: w.producer, first: w.next, stampMillis: w.at.UnixMilli()}, nil)
}

func (w *walker) record(h header, body []byte) error {
	w.at = time.UnixMilli(h.stampMillis)
	if h.first < w.next { // a copy of what is there already
		w.places++
		return nil
	}
	if h.kind == kindGap { // of a repair before this
		w.next = h.first
		return w.keep(h, body)
	}
	if err := w.expect(h.first, time.UnixMilli(h.stampMillis)); err != nil {
		return err
	}
	if h.kind == kindEvents {
		w.kept += uint64(h.n)
	}
	w.next = h.next()
	return w.keep(h, body)
}

// expect writes a gap where the record to come doesn't begin with the next number.
func (w *walker) expect(first uint64, at time.Time) error {
	if first <= w.next {
		return nil
	}
	w.places = max(w.places, 1)
	w.lost = append(w.lost, Range{w.next, first - 1})
	w.next = first
	return w.keep(header{kind: kindGap, producer: w.producer, first: first, stampMillis: at.UnixMilli()}, nil)
}

// rewrite writes the replacement into a directory of its own.
func (r *repair) rewrite(index int, indexes []int) error {
	temp := filepath.Join(r.dir, repairDir)
	if err := os.RemoveAll(temp); err != nil {
		return fmt.Errorf("discard old replacement: %w", err)
	}
	size, err := fileSize(r.dir, index)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// The marks that are added are far smaller than the slack, so that the log stays in one segment.
	slack := int64(16 << 20)
	log, err := wlog.NewSize(slog.New(slog.DiscardHandler), nil, temp, int((2*size+slack)/pageBytes*pageBytes), compression.Snappy)
	if err != nil {
		return fmt.Errorf("write replacement: %w", err)
	}
	err = r.copyTo(log, index, indexes)
	if err == nil {
		err = log.Sync()
	}
	if err := errors.Join(err, log.Close()); err != nil {
		return fmt.Errorf("write replacement: %w", err)
	}
	return nil
}

func (r *repair) copyTo(log *wlog.WL, index int, indexes []int) error {
	// Every segment begins with a mark, and so does this one when its own is lost.
	stamp, err := r.stamp(index)
	if err != nil {
		return err
	}
	record := header{kind: kindMark, producer: r.producer, first: r.next, stampMillis: stamp}.appendTo(nil)
	seal(record)
	if err := log.Log(record); err != nil {
		return err
	}
	_, err = r.walk(index, indexes, func(h header, body []byte) error {
		record = append(h.appendTo(record[:0]), body...)
		seal(record)
		return log.Log(record)
	})
	return err
}

// stamp returns a stamp for the mark that a replacement begins with: that of its oldest record, and else that of the last
// record before it.
func (r *repair) stamp(index int) (millis int64, err error) {
	h, _, err := firstBehind(r.dir, index, 0)
	if errors.Is(err, fs.ErrNotExist) { // the replacement is of a segment that is missing
		return r.at.UnixMilli(), nil
	}
	return h.stampMillis, err
}

// setAside gives the damaged file a second name under dir/damaged. The first one stays until it is replaced, so that a
// crash leaves either the damaged segment or the repaired one.
func (r *repair) setAside(index int) (string, error) {
	original := wlog.SegmentName(r.dir, index)
	info, err := os.Stat(original)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	aside := filepath.Join(r.dir, damagedDir)
	if err := makeDir(aside); err != nil {
		return "", err
	}
	name := wlog.SegmentName(aside, index)
	for i := 1; ; i++ {
		there, err := os.Stat(name)
		if err == nil && os.SameFile(info, there) {
			return name, nil // a repair was interrupted here
		}
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return "", err
		}
		name = fmt.Sprintf("%s.%d", wlog.SegmentName(aside, index), i)
	}
	if err := os.Link(original, name); err != nil {
		return "", fmt.Errorf("set the damaged file aside: %w", err)
	}
	return name, syncDir(aside)
}

// replace puts the replacement in place.
func (r *repair) replace(index int) error {
	temp := filepath.Join(r.dir, repairDir)
	if err := os.Rename(wlog.SegmentName(temp, 0), wlog.SegmentName(r.dir, index)); err != nil {
		return fmt.Errorf("put the replacement in place: %w", err)
	}
	if err := syncDir(r.dir); err != nil {
		return err
	}
	return os.RemoveAll(temp)
}
