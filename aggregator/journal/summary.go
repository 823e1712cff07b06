package journal

import (
	"errors"
	"fmt"
	"io"
	"time"
)

// summary is what the records of a segment say.
type summary struct {
	index   int
	bytes   int64 // where the last whole record ends
	records int
	bare    bool   // it holds marks only
	first   uint64 // number of its first event, or of the one to come
	next    uint64
	newest  time.Time
}

func (s *summary) segment() Segment {
	return Segment{Index: s.index, First: s.first, Last: s.next - 1, Bytes: s.bytes, Newest: s.newest, Sealed: true}
}

func (s *summary) add(h header) {
	if s.records == 0 {
		s.first, s.bare = h.first, true
	}
	s.records++
	s.bare = s.bare && h.kind == kindMark
	s.next = h.next()
	s.newest = time.UnixMilli(h.stampMillis)
}

// withScanner calls f with a scanner at the beginning of a segment file.
func withScanner(dir string, index int, f func(*scanner) error) error {
	file, err := openSegment(dir, index)
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // it was only read
	size, err := file.size()
	if err != nil {
		return err
	}
	return f(newScanner(file, size))
}

// verifyFragments checks the checksums of a segment without decompressing its records.
func verifyFragments(dir string, index int) error {
	return withScanner(dir, index, func(s *scanner) error {
		for {
			if err := s.verify(); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return err
			}
		}
	})
}

// scanAll reads every record of a segment. The summary is of what lies before the error, which is a *badPlaceError where
// a record or a number is missing. Unless limit is 0, the last record is left out if it reaches up to that number.
func scanAll(dir string, index int, limit uint64) (*summary, error) {
	sum := &summary{index: index}
	err := withScanner(dir, index, func(s *scanner) error {
		for {
			h, _, err := s.next()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if limit > 0 && h.next() > limit {
				return expectEnd(s)
			}
			if sum.records > 0 && h.first != sum.next && (h.kind != kindGap || h.first < sum.next) {
				return &badPlaceError{s.start, fmt.Errorf("record begins with event %d, want %d", h.first, sum.next)}
			}
			sum.add(h)
			sum.bytes = s.off
		}
	})
	return sum, err
}

// expectEnd returns an error where a record follows the one that s has just read.
func expectEnd(s *scanner) error {
	start := s.start
	_, _, err := s.next()
	if _, bad := errors.AsType[*badPlaceError](err); bad || errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil {
		return err
	}
	return &badPlaceError{start, errors.New("the next segment has the same events")}
}

// summarizeEnds reads the first and the last whole record of a segment. bare is not known.
func summarizeEnds(dir string, index int) (*summary, error) {
	sum := &summary{index: index}
	err := withScanner(dir, index, func(s *scanner) error {
		found, err := s.seekPage(0)
		if err != nil || !found {
			return err
		}
		first, _, err := s.next()
		if isReadError(err) {
			return err
		}
		if err != nil { // seekPage trusts the first fragment
			if found, err = s.skipBad(); err != nil || !found {
				return err
			}
			if first, _, err = s.next(); err != nil {
				return err
			}
		}
		sum.add(first)
		sum.bytes = s.off
		return sum.addLast(s)
	})
	return sum, err
}

// addLast finds the last whole record, page by page from the end.
func (s *summary) addLast(scan *scanner) error {
	before := s.records
	for page := (scan.end - 1) / pageBytes; page >= 0 && s.records == before; page-- {
		if err := s.addFrom(scan, page*pageBytes); err != nil {
			return err
		}
	}
	return nil
}

// addFrom adds the whole records that begin in a page or behind it.
func (s *summary) addFrom(scan *scanner, page int64) error {
	found, err := scan.seekPage(page)
	for found && err == nil {
		var h header
		h, _, err = scan.next()
		if err == nil {
			s.add(h)
			s.bytes = scan.off
			continue
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if _, bad := errors.AsType[*badPlaceError](err); bad {
			found, err = scan.skipBad()
		}
	}
	return err
}

// firstBehind returns the first whole record at or behind a bad place. It can be the one at the place where that is
// bad because numbers are missing.
func firstBehind(dir string, index int, offset int64) (h header, found bool, err error) {
	err = withScanner(dir, index, func(s *scanner) error {
		if found, err = s.search(offset); err != nil || !found {
			return err
		}
		h, _, err = s.next()
		return err
	})
	return h, found, err
}

// firstNumber returns the number that the oldest readable record begins with.
func firstNumber(dir string, indexes []int) (uint64, error) {
	for _, index := range indexes {
		s, err := summarizeEnds(dir, index)
		if err != nil {
			return 0, err
		}
		if s.records > 0 {
			return s.first, nil
		}
	}
	return 1, nil
}
