package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/prometheus/prometheus/util/compression"
)

// The page format of prometheus/tsdb/wlog. A segment is a row of pages; a page is a row of fragments and, where no more
// fit, zeros; a record is one full fragment, or a first, any middle and a last one that fill the pages between.
//
//	 0      1        3        7
//	+------+--------+--------+------
//	| type | length | CRC-32C| data     type: 3 bits fragment type, 1 bit snappy, 1 bit zstd
//	+------+--------+--------+------
const (
	pageBytes           = 32 << 10
	fragmentHeaderBytes = 7

	fragmentFull   = 1
	fragmentFirst  = 2
	fragmentMiddle = 3
	fragmentLast   = 4

	typeMask   = 1<<3 - 1
	snappyFlag = 1 << 3
	zstdFlag   = 1 << 4
)

// readBytes is how much of a segment is read at a time.
const readBytes = 256 << 10

// rereads is how often a bad place is read again at most, until two reads in succession give the same bytes.
const rereads = 4

// scanner reads the records of one segment up to a given end. Unlike the readers of wlog it can begin at any page, go on
// behind a bad place, and be told that there is more.
//
// An error of its methods is io.EOF at the end, a *badPlaceError where the bytes were read and are no record, and a
// *[ReadError] where they could not be read: then the same call may be repeated.
type scanner struct {
	file *segmentFile
	end  int64 // nothing is read at or behind it
	// growing says that the bytes at the end may be in the course of being written, so that two reads may differ.
	growing bool
	off     int64 // of the next fragment
	// start is where the record that next returned, or failed to, begins.
	start int64

	ahead  int    // how much is read at a time
	buf    []byte // a window into the file
	bufOff int64  // where it begins
	joined []byte // memory for a record of several fragments
	data   []byte // the current record as stored, in buf or joined
	decode compression.DecodeBuffer
}

// badPlaceError says that the bytes at an offset were read and are no whole record.
type badPlaceError struct {
	offset int64
	err    error
}

func (e *badPlaceError) Error() string { return fmt.Sprintf("at byte %d: %v", e.offset, e.err) }
func (e *badPlaceError) Unwrap() error { return e.err }

func newScanner(file *segmentFile, end int64) *scanner {
	s := &scanner{ahead: readBytes, decode: compression.NewSyncDecodeBuffer()}
	s.reset(file, end)
	return s
}

// reset starts anew at the beginning of another file.
func (s *scanner) reset(file *segmentFile, end int64) {
	s.file, s.end, s.off, s.start = file, end, 0, 0
	s.growing = false
	s.forget()
}

// forget drops what has been read ahead.
func (s *scanner) forget() { s.buf, s.bufOff = s.buf[:0], 0 }

// reread reads from the disk again, through a fresh descriptor.
func (s *scanner) reread() error {
	s.forget()
	return s.file.reopen()
}

// next returns the next record. At the end, with only zeros left, the error is io.EOF, and where there is no record a
// *badPlaceError: then skipBad goes on. Neither is believed before two reads in succession, the second through a fresh
// descriptor, have agreed on it. The body is valid until the next call of any method.
func (s *scanner) next() (header, []byte, error) {
	h, body, err := s.tryNext()
	if !s.doubtful(err) {
		return h, body, err
	}
	bad := s.start
	sum, readErr := s.fingerprint(bad)
	for range rereads {
		if readErr != nil {
			break
		}
		s.off = bad
		if readErr = s.reread(); readErr != nil {
			break
		}
		lastErr, lastSum := err, sum
		if h, body, err = s.tryNext(); !s.doubtful(err) {
			return h, body, err
		}
		if sum, readErr = s.fingerprint(bad); readErr == nil && sum == lastSum && err.Error() == lastErr.Error() {
			return header{}, nil, err
		}
	}
	if s.growing && readErr == nil {
		return header{}, nil, err
	}
	s.off, s.start = bad, bad
	if readErr == nil {
		readErr = s.unsteady(bad)
	}
	return header{}, nil, readErr
}

// fingerprint returns a checksum of the bytes at a bad place, as far as they can bear on the judgement.
func (s *scanner) fingerprint(bad int64) (sum uint32, err error) {
	for off := bad; off < min(bad+2*pageBytes, s.end); {
		b, err := s.window(off)
		if err != nil {
			return 0, err
		}
		sum = crc32.Update(sum, castagnoli, b)
		off += int64(len(b))
	}
	return sum, nil
}

// doubtful reports whether err is a judgement on bytes that were read only once: that there is no record, or that they are
// the zeros behind the last one.
func (s *scanner) doubtful(err error) bool {
	_, bad := errors.AsType[*badPlaceError](err)
	if errors.Is(err, io.EOF) && s.off < s.end {
		s.start = s.off
		return true
	}
	return bad
}

var errUnsteady = errors.New("two reads of the same bytes differ")

func (s *scanner) unsteady(off int64) error {
	return &ReadError{Path: s.file.path, Offset: off, Err: errUnsteady}
}

// tryNext is next on the strength of one read.
func (s *scanner) tryNext() (header, []byte, error) {
	payload, err := s.nextPayload()
	if err != nil {
		return header{}, nil, err
	}
	h, body, err := parseRecord(payload)
	if err != nil {
		s.off = s.start
		return header{}, nil, &badPlaceError{s.start, err}
	}
	return h, body, nil
}

func (s *scanner) nextPayload() ([]byte, error) {
	flags, err := s.collect(true)
	if err != nil {
		return nil, err
	}
	payload, err := s.decompress(flags)
	if err != nil {
		s.off = s.start
		return nil, &badPlaceError{s.start, err}
	}
	return payload, nil
}

// verify is next for those who only want to know that the checksums of the fragments are right. A bad place that it returns
// has been read once.
func (s *scanner) verify() error {
	_, err := s.collect(false)
	return err
}

// collect moves over the next record and, if keep is set, leaves its data in s.data. It returns its compression flags.
func (s *scanner) collect(keep bool) (flags byte, err error) {
	off, err := s.skipPadding(s.off)
	if err != nil {
		return 0, err
	}
	s.start = off
	s.joined = s.joined[:0]
	for i := 0; ; i++ {
		f, err := s.fragment(off)
		if err == nil {
			err = f.checkPlace(i, off)
		}
		if err != nil {
			return 0, s.asBadPlace(err)
		}
		off += fragmentHeaderBytes + int64(len(f.data))
		if f.kind == fragmentFull {
			s.data, s.off = f.data, off
			return f.flags, nil
		}
		if keep {
			s.joined = append(s.joined, f.data...)
		}
		if f.kind == fragmentLast {
			s.data, s.off = s.joined, off
			return f.flags, nil
		}
	}
}

// asBadPlace leaves the scanner at the record that cannot be read.
func (s *scanner) asBadPlace(err error) error {
	s.off = s.start
	if isReadError(err) {
		return err
	}
	return &badPlaceError{s.start, err}
}

func (s *scanner) decompress(flags byte) ([]byte, error) {
	switch flags {
	case 0:
		return s.data, nil
	case snappyFlag:
		return compression.Decode(compression.Snappy, s.data, s.decode)
	case zstdFlag:
		return compression.Decode(compression.Zstd, s.data, s.decode)
	}
	return nil, fmt.Errorf("unknown compression %#x", flags)
}

// skipPadding returns where the next fragment begins at or behind off. Zeros up to the end are io.EOF; other zeros where
// a fragment could be are a bad place, since wlog pads only at the end of a segment.
func (s *scanner) skipPadding(off int64) (int64, error) {
	if left := pageBytes - off%pageBytes; left < fragmentHeaderBytes {
		off += left
	}
	if off >= s.end {
		return off, io.EOF
	}
	b, err := s.window(off)
	if err != nil {
		return off, err
	}
	if b[0] != 0 {
		return off, nil
	}
	s.start = off
	for at := off; at < s.end; at += int64(len(b)) {
		if b, err = s.window(at); err != nil {
			return off, err
		}
		if !allZero(b) {
			s.off = off
			return off, &badPlaceError{off, errors.New("zeros in place of a record")}
		}
	}
	return off, io.EOF
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// fragment is a part of a record that lies within one page.
type fragment struct {
	kind  byte
	flags byte
	data  []byte
}

// fragment reads the fragment at off.
func (s *scanner) fragment(off int64) (fragment, error) {
	if off >= s.end {
		return fragment{}, io.ErrUnexpectedEOF
	}
	b, err := s.window(off)
	if err != nil {
		return fragment{}, err
	}
	return parseFragment(b)
}

// parseFragment reads the fragment at the beginning of b, which ends with its page.
func parseFragment(b []byte) (fragment, error) {
	if len(b) < fragmentHeaderBytes {
		return fragment{}, io.ErrUnexpectedEOF
	}
	f := fragment{kind: b[0] & typeMask, flags: b[0] &^ typeMask}
	if f.kind < fragmentFull || f.kind > fragmentLast || f.flags&^(snappyFlag|zstdFlag) != 0 {
		return fragment{}, fmt.Errorf("invalid fragment type %#x", b[0])
	}
	length := int(binary.BigEndian.Uint16(b[1:]))
	if length > len(b)-fragmentHeaderBytes {
		return fragment{}, fmt.Errorf("fragment of %d bytes is cut short: %w", length, io.ErrUnexpectedEOF)
	}
	f.data = b[fragmentHeaderBytes : fragmentHeaderBytes+length]
	if sum := crc32.Checksum(f.data, castagnoli); sum != binary.BigEndian.Uint32(b[3:]) {
		return fragment{}, fmt.Errorf("fragment of %d bytes has the checksum %08x, want %08x", length, sum, b[3:7])
	}
	return f, nil
}

// checkPlace checks that f, at off, can be the fragment with number i of a record.
func (f fragment) checkPlace(i int, off int64) error {
	if (i == 0) != (f.kind == fragmentFull || f.kind == fragmentFirst) {
		return fmt.Errorf("fragment %d of a record has type %d", i, f.kind)
	}
	if i > 0 && off%pageBytes != 0 {
		return fmt.Errorf("fragment %d of a record doesn't begin a page", i)
	}
	return nil
}

func isReadError(err error) bool {
	_, ok := errors.AsType[*ReadError](err)
	return ok
}

// window returns the bytes from off, which lies before the end, to the end of its page or of the segment.
func (s *scanner) window(off int64) ([]byte, error) {
	stop := min(off-off%pageBytes+pageBytes, s.end)
	if off < s.bufOff || stop > s.bufOff+int64(len(s.buf)) {
		if err := s.fill(off); err != nil {
			return nil, err
		}
	}
	return s.buf[off-s.bufOff : stop-s.bufOff], nil
}

// fill reads the file from off on. What a file that was cut short lacks is replaced by bytes that are no fragment, so that
// it counts as a bad place.
func (s *scanner) fill(off int64) error {
	size := int(min(int64(s.ahead), s.end-off))
	if cap(s.buf) < size {
		s.buf = make([]byte, max(size, pageBytes))
	}
	s.buf, s.bufOff = s.buf[:size], off
	n, err := s.file.ReadAt(s.buf, off)
	if isReadError(err) && size > pageBytes { // the page alone, so that the records before the unreadable bytes are found
		s.buf = s.buf[:min(int64(size), pageBytes-off%pageBytes)]
		n, err = s.file.ReadAt(s.buf, off)
	}
	if isReadError(err) {
		s.forget()
		return err
	}
	for i := n; i < len(s.buf); i++ {
		s.buf[i] = 0xff
	}
	return nil
}

// skipBad moves behind a bad place to the next whole record, and reports whether there is one before the end. As in next,
// two reads must agree on it. On an error the scanner is at the bad place again.
func (s *scanner) skipBad() (bool, error) {
	bad := s.start
	found, err := s.search(bad + 1)
	for tries := 0; err == nil; tries++ {
		before, at := found, s.off
		if err = s.reread(); err != nil {
			break
		}
		found, err = s.search(bad + 1)
		if err == nil && found == before && s.off == at {
			return found, nil
		}
		if err == nil && tries == rereads {
			if s.growing {
				return found, nil
			}
			err = s.unsteady(bad)
		}
	}
	s.off, s.start = bad, bad
	return false, err
}

// seekPage moves to the first whole record that begins in the page with this offset or later.
func (s *scanner) seekPage(off int64) (bool, error) {
	s.off = off
	for off < s.end { // over the rest of a record that begins earlier
		f, err := s.fragment(off)
		if isReadError(err) {
			return false, err
		}
		if err != nil {
			return s.search(off)
		}
		if f.kind == fragmentFull || f.kind == fragmentFirst {
			s.off = off
			return true, nil
		}
		off += fragmentHeaderBytes + int64(len(f.data))
		if pageBytes-off%pageBytes < fragmentHeaderBytes {
			off += pageBytes - off%pageBytes
		}
	}
	return false, nil
}

// search tries every byte from off on. The length of a damaged fragment cannot be trusted, but records are so well
// checked that none is found where none was written: its fragments and itself have checksums.
func (s *scanner) search(off int64) (bool, error) {
	for off < s.end {
		b, err := s.window(off)
		if err != nil {
			return false, err
		}
		for i := range b {
			if !beginsRecord(b[i:]) {
				continue
			}
			s.off = off + int64(i)
			if _, _, err := s.tryNext(); err == nil {
				s.off = s.start
				return true, nil
			} else if isReadError(err) {
				return false, err
			}
			if b, err = s.window(off); err != nil { // tryNext may have moved it
				return false, err
			}
		}
		off += int64(len(b))
	}
	s.off = s.end
	return false, nil
}

// beginsRecord reports whether b, which ends with its page, looks like the first fragment of a record.
func beginsRecord(b []byte) bool {
	if kind := b[0] & typeMask; kind != fragmentFull && kind != fragmentFirst {
		return false
	}
	f, err := parseFragment(b)
	if err != nil {
		return false
	}
	if f.kind == fragmentFirst {
		return fragmentHeaderBytes+len(f.data) == len(b)
	}
	return len(f.data) > 0
}

// dataEnd returns where the zeros at the end begin.
func (s *scanner) dataEnd() (int64, error) {
	end := int64(0)
	for off := int64(0); off < s.end; {
		b, err := s.window(off)
		if err != nil {
			return 0, err
		}
		if data := bytes.TrimRight(b, "\x00"); len(data) > 0 {
			end = off + int64(len(data))
		}
		off += int64(len(b))
	}
	return end, nil
}
