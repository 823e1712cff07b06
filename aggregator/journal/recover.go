package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"

	"github.com/prometheus/prometheus/tsdb/wlog"
)

// verifyBytes is how much of the newest segments is checked when the journal is opened. Damage is most likely where a
// crash has been, and this much is read in about a second; what is older is checked when it is read.
const verifyBytes = 1 << 30

// DamageError says that the journal holds a place that cannot be read with whole records behind it. No record was
// changed or removed.
type DamageError struct {
	Dir     string
	Segment int
	Offset  int64
	// First and Last are the missing events. Last is less than First where no event is missing (a note may be). Either
	// is 0 where it cannot be told.
	First, Last uint64
	Err         error
}

func (e *DamageError) Error() string {
	lost := fmt.Sprintf("events %d to %d are lost", e.First, e.Last)
	switch {
	case e.First == 0 && e.Last == 0:
		lost = "an unknown number of events is lost"
	case e.First == 0:
		lost = fmt.Sprintf("events up to %d are lost", e.Last)
	case e.Last == 0:
		lost = fmt.Sprintf("events from %d on are lost", e.First)
	case e.Last < e.First:
		lost = "no events are lost, but a note may be"
	}
	return fmt.Sprintf("journal segment %s is damaged at byte %d (%v): %s; restore the file from a backup or run `usagectl journal repair %s`",
		wlog.SegmentName(e.Dir, e.Segment), e.Offset, e.Err, lost, e.Dir)
}

func (e *DamageError) Unwrap() error { return e.Err }

// recovery finds out what a journal holds when it is opened, and then what has to be cut off its end. Finding out changes
// nothing: a journal that is refused is left as it was.
type recovery struct {
	dir     string
	log     *slog.Logger
	metrics *journalMetrics
	indexes []int
	// leftovers are segments that an interrupted Remove has not deleted.
	leftovers []int
	known     *bounds // nil where there is no file

	segments []Segment
	next     uint64 // the number that the next event gets
	cuts     []cut
}

func newRecovery(dir string, log *slog.Logger, m *journalMetrics) (*recovery, error) {
	indexes, leftovers, known, err := listSegments(dir, log)
	if err != nil {
		return nil, err
	}
	r := &recovery{dir: dir, log: log, metrics: m, indexes: indexes, leftovers: leftovers, known: known, next: 1}
	if err := r.checkIndexes(); err != nil {
		return nil, err
	}
	if err := known.checkEnds(dir, indexes); err != nil {
		return nil, err
	}
	last, err := r.recoverTail()
	if err != nil {
		return nil, err
	}
	if err := known.checkLast(dir, last); err != nil {
		return nil, err
	}
	if last == nil {
		return r, nil
	}
	r.next = last.next
	r.segments, err = r.recoverSealed(last)
	return r, err
}

// apply makes the cuts. After an error it may be called again, and goes on with what is left.
func (r *recovery) apply() error {
	for len(r.leftovers) > 0 {
		if err := os.Remove(wlog.SegmentName(r.dir, r.leftovers[0])); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("finish an interrupted removal: %w", err)
		}
		r.leftovers = r.leftovers[1:]
	}
	if err := r.forgetRemoved(); err != nil {
		return err
	}
	for len(r.cuts) > 0 {
		if err := r.cuts[0].apply(r); err != nil {
			return err
		}
		r.cuts = r.cuts[1:]
	}
	return nil
}

// forgetRemoved writes that segments need not exist which a cut is going to remove: else one removed before a crash would be
// missed.
func (r *recovery) forgetRemoved() error {
	if r.known == nil || !slices.ContainsFunc(r.cuts, func(c cut) bool { return c.remove && c.segment <= r.known.Newest }) {
		return nil
	}
	k := boundsKeeper{dir: r.dir}
	return k.save(func(b *bounds) { b.recovered(r.segments, r.next) })
}

// checkIndexes refuses a journal from which a segment in the middle is missing.
func (r *recovery) checkIndexes() error {
	for i := 1; i < len(r.indexes); i++ {
		missing := r.indexes[i-1] + 1
		if r.indexes[i] == missing {
			continue
		}
		before, err := summarizeEnds(r.dir, missing-1)
		if err != nil {
			return err
		}
		behind, err := summarizeEnds(r.dir, r.indexes[i])
		if err != nil {
			return err
		}
		return &DamageError{Dir: r.dir, Segment: missing, First: before.next, Last: max(behind.first, 1) - 1, Err: errMissing}
	}
	return nil
}

// recoverTail has a torn record cut off the last segment that holds data, and the segments behind it removed: they were
// made and never came to count. It returns nil where there is no segment left.
func (r *recovery) recoverTail() (*summary, error) {
	for len(r.indexes) > 0 {
		last := len(r.indexes) - 1
		s, err := r.recoverLast(r.indexes[last])
		if err != nil {
			return nil, err
		}
		redundant, err := r.redundant(s)
		if err != nil {
			return nil, err
		}
		if s.records > 0 && !redundant {
			return s, nil
		}
		if s.records == 0 && last == 0 && s.index > 0 {
			return nil, &DamageError{Dir: r.dir, Segment: s.index, Err: errors.New("no record is left, nor a segment before it")}
		}
		r.cuts = append(slices.DeleteFunc(r.cuts, func(c cut) bool { return c.segment == s.index }),
			cut{segment: s.index, remove: true, whole: s.records > 0})
		r.indexes = r.indexes[:last]
	}
	return nil, nil
}

// redundant reports whether the last segment says nothing that the one before it doesn't say too, as one left by each
// start of a daemon that has accepted nothing.
func (r *recovery) redundant(s *summary) (bool, error) {
	torn := slices.ContainsFunc(r.cuts, func(c cut) bool { return c.segment == s.index })
	if !s.bare || torn || len(r.indexes) < 2 {
		return false, nil
	}
	before, err := scanAll(r.dir, r.indexes[len(r.indexes)-2], 0)
	if isReadError(err) {
		return false, err
	}
	return err == nil && before.records > 0 && before.next == s.next, nil
}

// recoverLast scans the last segment and has its torn tail cut.
func (r *recovery) recoverLast(index int) (*summary, error) {
	s, err := scanAll(r.dir, index, 0)
	bad, ok := errors.AsType[*badPlaceError](err)
	if err != nil && !ok {
		return nil, err
	}
	size, err := fileSize(r.dir, index)
	if err != nil {
		return nil, err
	}
	if !ok {
		// Zeros up to the end of the page are wlog's padding.
		if padded := (s.bytes + pageBytes - 1) / pageBytes * pageBytes; size > padded || s.records == 0 && size > 0 {
			r.cutTail(s, false)
		}
		return s, nil
	}
	if err := r.checkTorn(s, bad); err != nil {
		return nil, err
	}
	r.cutTail(s, false)
	return s, nil
}

// checkTorn tells a torn tail from damage. A crash can tear the last record alone.
func (r *recovery) checkTorn(s *summary, bad *badPlaceError) error {
	damage := &DamageError{Dir: r.dir, Segment: s.index, Offset: bad.offset, First: s.next, Err: bad.err}
	if s.records == 0 {
		var err error
		if damage.First, err = r.firstOf(s.index); err != nil {
			return err
		}
	}
	behind, found, err := firstBehind(r.dir, s.index, bad.offset)
	if err != nil {
		return err
	}
	if found {
		damage.Last = behind.first - 1
		return damage
	}
	if s.records > 0 {
		return nil
	}
	// The opening mark is unreadable. It is synced before anything else is written, so what is longer was not torn.
	var data int64
	err = withScanner(r.dir, s.index, func(scan *scanner) error {
		data, err = scan.dataEnd()
		return err
	})
	if err != nil {
		return err
	}
	if data > openingBytes {
		return damage
	}
	return nil
}

// firstOf returns the number that a segment whose opening mark is lost began with: the one that the segment before it
// ends with. It returns 0 where that was removed.
func (r *recovery) firstOf(index int) (uint64, error) {
	if index == 0 {
		return 1, nil
	}
	if index == r.indexes[0] {
		return 0, nil
	}
	before, err := summarizeEnds(r.dir, index-1)
	return before.next, err
}

func (r *recovery) cutTail(s *summary, whole bool) {
	r.cuts = append(r.cuts, cut{segment: s.index, from: s.bytes, whole: whole})
}

// recoverSealed checks the segments before the last one, the newest with their checksums, and returns all.
func (r *recovery) recoverSealed(last *summary) ([]Segment, error) {
	segments := make([]Segment, len(r.indexes))
	segments[len(segments)-1] = last.segment()
	verified := last.bytes
	behind := last
	for i := len(segments) - 2; i >= 0; i-- {
		s, err := summarizeEnds(r.dir, r.indexes[i])
		if err != nil {
			return nil, err
		}
		if verified < verifyBytes {
			verified += s.bytes
			if err := r.checkSealed(s, behind); err != nil {
				return nil, err
			}
		}
		if s.records == 0 { // unreadable, and too old to be checked: a reader will tell
			s.first, s.next, s.newest = behind.first, behind.first, behind.newest
		}
		segments[i] = s.segment()
		segments[i].Last = behind.first - 1
		behind = s
	}
	return segments, nil
}

// checkSealed looks for damage in s and between it and the segment behind.
func (r *recovery) checkSealed(s, behind *summary) error {
	err := verifyFragments(r.dir, s.index)
	if err == nil && s.records > 0 && s.next == behind.first {
		return nil
	}
	if _, bad := errors.AsType[*badPlaceError](err); err != nil && !bad {
		return err
	}
	full, err := scanAll(r.dir, s.index, behind.first)
	bad, ok := errors.AsType[*badPlaceError](err)
	if err != nil && !ok {
		return err
	}
	if !ok && full.next == behind.first {
		// A record follows whose number the next segment gives to another: it is of a batch that was refused, written by a
		// log that could be closed only later.
		*s = *full
		r.cutTail(s, true)
		return nil
	}
	damage := &DamageError{Dir: r.dir, Segment: s.index, Offset: full.bytes, First: full.next, Last: behind.first - 1,
		Err: errMissingRecords}
	if full.records == 0 {
		if damage.First, err = r.firstOf(s.index); err != nil {
			return err
		}
	}
	if !ok {
		return damage
	}
	damage.Offset, damage.Err = bad.offset, bad.err
	next, found, err := firstBehind(r.dir, s.index, bad.offset)
	if err != nil {
		return err
	}
	if found {
		damage.Last = next.first - 1
	}
	return damage
}
