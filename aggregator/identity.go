package aggregator

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/uuid"

	"usaged/aggregator/datadir"
	"usaged/aggregator/durable"
	"usaged/aggregator/ledger"
	"usaged/aggregator/meter"
	"usaged/aggregator/seqset"
	"usaged/aggregator/store"
)

// identity is who this data directory counts as. It is kept twice, in <data>/producer.json and beside the segments in
// <data>/journal/identity.json, and is durable in both before anything is done that rests on it.
//
// Normally it names one producer, whose id is the journal's. Another is added where the numbers of the events that follow may
// have been given to other events already, under the last id: see the table in the package comment.
type identity struct {
	dir   string
	plain bool // the file has no checksum yet
	moved bool // the file lies elsewhere than where it was written: it was copied, or restored from a backup

	// Revision is one higher in each version of the file.
	Revision uint64 `json:"revision"`
	// Place is the file itself, see durable.Place. It is "" where that cannot be told.
	Place string `json:"place,omitempty"`

	// Session is the highest session that this directory has used. It is durable before it is used.
	Session uint64 `json:"session"`
	// Met is the session that the store had confirmed in every partition when the file was written, or an earlier one of
	// this directory. What the store has under another session that is higher, and is not Session, is not from here.
	Met uint64 `json:"met,omitempty"`
	// End is the number of the last event that the journal is known to have held: no number up to it is given out again.
	End uint64 `json:"end,omitempty"`
	// Opened is the end of the journal when it was first opened after the last contact with the store: what lies before it
	// is from when the ids were ours for certain. It is absent while the store is in contact.
	Opened *uint64 `json:"opened,omitempty"`

	// Fenced says that another process has taken over the last producer, so that the next start must add one.
	Fenced bool `json:"fenced,omitempty"`
	// Shared says that another data directory may have counted under one of the ids.
	Shared bool `json:"shared,omitempty"`
	// Producers are in the order of their time. A producer counts the events after From up to the next one's From.
	Producers []producerSpan `json:"producers"`
}

type producerSpan struct {
	ID string `json:"id"`
	// From has, per partition, the sequence number after which the producer's events begin.
	From []uint64 `json:"from"`
	// Before is how many events of the journal count under the producers before it. It is absent where From says it, and in files
	// of older versions.
	Before *uint64 `json:"before,omitempty"`
}

var identityFormat = durable.Format{Version: 2, Plain: 1}

// The two files, the second one from the data directory.
const identityFile = "producer.json"

var identityCopy = filepath.Join(datadir.Journal, "identity.json")

// readIdentity reads both files and returns the newer one that is whole. It returns nil where there is none, and an error
// where none is whole. intact says that neither the directory nor its journal alone was copied, restored or lost since it
// was written.
func readIdentity(dir string) (id *identity, intact bool, err error) {
	own, ownErr := readIdentityFile(dir, identityFile)
	kept, keptErr := readIdentityFile(dir, identityCopy)
	for _, err := range []error{ownErr, keptErr} {
		if err != nil && !errors.Is(err, durable.ErrDamaged) {
			return nil, false, err
		}
	}
	id, intact = newerIdentity(own, kept)
	if id == nil {
		return nil, false, errors.Join(ownErr, keptErr)
	}
	return id, intact, nil
}

// newerIdentity decides between what the two files say, of which each may be nil.
func newerIdentity(own, kept *identity) (id *identity, intact bool) {
	switch {
	case own == nil:
		return kept, kept != nil && !kept.moved
	case kept == nil: // the journal was lost, unless nothing was ever written beside it
		return own, own.plain || own.Revision == 0
	case kept.Revision < own.Revision: // the journal was restored alone
		return own, false
	}
	return kept, !kept.moved // where producer.json alone was restored or lost the journal's copy has what followed
}

// readIdentityFile returns nil where the file is not there, and where it is damaged.
func readIdentityFile(dir, name string) (*identity, error) {
	path := filepath.Join(dir, name)
	id := &identity{dir: dir}
	plain, err := identityFormat.LoadJSON(path, id)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, nil
	case errors.Is(err, durable.ErrVersion):
		return nil, fmt.Errorf("read who this data directory counts as: %w: start the newer usaged that wrote it", err)
	case err != nil:
		return nil, fmt.Errorf("read who this data directory counts as: %w: restore it from a backup, together with the journal", err)
	case len(id.Producers) == 0:
		return nil, fmt.Errorf("read who this data directory counts as: %s is %w: it names no producer: restore it from a backup", path, durable.ErrDamaged)
	}
	if id.plain = plain; plain && !id.Fenced {
		id.Met = id.Session
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	place, err := durable.Place(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	id.moved = id.Place != "" && place != "" && id.Place != place
	return id, nil
}

// opening is what a data directory holds beside its identity when it is opened.
type opening struct {
	journalID string
	// end is the number of the journal's last event, known that of the last one that anything in the directory mentions.
	end, known uint64
	partitions int
}

// findings are what openIdentity has found to be unusual.
type findings struct {
	// lost are numbers of events that are no longer in the journal although it had them. The caller has the journal skip
	// them before it accepts an event.
	lost seqset.Run
	// reason says why new events count under a new id, "" where they do not.
	reason string
	// repaired says that one of the two files was missing or damaged, and that the other was used.
	repaired bool
	// unsaved says why it could not be noted that the directory was opened, say for a full disk: then it is noted at the
	// first contact with the store.
	unsaved error
}

// openIdentity reads who the directory counts as, or makes that up for one that is new, and makes durable what follows from how
// it was found. After it, and before the first contact with the store, events may be accepted.
func openIdentity(dir string, o opening) (*identity, findings, error) {
	var found findings
	id, intact, err := readIdentity(dir)
	if err != nil {
		return nil, found, err
	}
	if id == nil {
		if max(o.end, o.known) > 0 {
			return nil, found, fmt.Errorf("%s is missing although the journal has held %d events: it says under which ids they were counted. "+
				"Restore it from a backup, from %s or from %s", filepath.Join(dir, identityFile), max(o.end, o.known), identityFile, identityCopy)
		}
		id = &identity{dir: dir, Producers: []producerSpan{{ID: o.journalID, From: make([]uint64, o.partitions)}}}
		intact = true
	}
	if err := id.fit(o.partitions); err != nil {
		return nil, found, err
	}
	found.repaired = id.Revision > 0 && !bothWhole(dir)
	if err := id.reopen(o, intact, &found); err != nil {
		return nil, found, err
	}
	if err := id.save(); err != nil {
		if id.Revision == 1 || found.reason != "" {
			return nil, found, err
		}
		found.unsaved = err
	}
	return id, found, nil
}

// bothWhole says that both files can be read.
func bothWhole(dir string) bool {
	own, _ := readIdentityFile(dir, identityFile)
	kept, _ := readIdentityFile(dir, identityCopy)
	return own != nil && kept != nil
}

// reopen decides how a directory goes on that is opened again.
func (id *identity) reopen(o opening, intact bool, found *findings) error {
	known := max(id.End, o.known)
	if o.end < known {
		found.lost = seqset.Run{First: o.end + 1, Last: known}
		intact = false
	}
	id.End = max(known, o.end)
	switch {
	case found.lost != (seqset.Run{}):
		found.reason = "events are missing at the end of the journal: it was lost or restored from a backup"
	case !intact:
		found.reason = "this data directory, or its journal, was copied or restored from a backup"
	}
	if found.reason != "" {
		from := make([]uint64, o.partitions)
		for i := range from {
			from[i] = id.End
		}
		if err := id.add(from, nil); err != nil {
			return err
		}
		id.Opened = nil
	}
	if id.Opened == nil {
		end := id.End
		id.Opened = &end
	}
	return nil
}

// fit adapts the identity to the number of partitions of a store that it has not met yet, and refuses another one.
func (id *identity) fit(partitions int) error {
	for k := range id.Producers {
		p := &id.Producers[k]
		if id.Session == 0 && len(p.From) > 0 { // nothing has ever been applied; all partitions begin alike
			p.From = slices.Repeat(p.From[:1], partitions)
		}
		if len(p.From) != partitions {
			return fmt.Errorf("%s was made for %d partitions and the store has %d: use the store that this data directory was used with",
				filepath.Join(id.dir, identityFile), len(p.From), partitions)
		}
	}
	return nil
}

// Partitions returns the number of partitions that the store had with which a data directory was used, 0 where it has not
// been used with any yet.
func Partitions(dir string) (int, error) {
	id, _, err := readIdentity(dir)
	if err != nil || id == nil || id.Session == 0 {
		return 0, err
	}
	return len(id.last().From), nil
}

// save makes the next revision durable, beside the journal first. Where that fails half-way the two files differ, and the next
// start takes the newer one: both are true as long as nothing is done that rests on the newer.
func (id *identity) save() error {
	id.Revision++
	for _, name := range []string{identityCopy, identityFile} {
		err := identityFormat.SaveMade(filepath.Join(id.dir, name), 0o640, func(f *os.File) (any, error) {
			place, err := durable.Place(f)
			id.Place = place
			return id, err
		})
		if err != nil {
			return fmt.Errorf("write who this data directory counts as: %w", err)
		}
	}
	return nil
}

// change makes what edit does durable. On an error the identity is as it was, but for its revision.
func (id *identity) change(edit func(next *identity) error) error {
	next := *id
	next.Producers = slices.Clone(id.Producers)
	err := edit(&next)
	if err == nil {
		err = next.save()
	}
	id.Revision = next.Revision
	if err != nil {
		return err
	}
	*id = next
	return nil
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

// before returns how many events of the journal count under the producers before one, or false where that is not known.
func (id *identity) before(producer int) (events uint64, known bool) {
	p := id.Producers[producer]
	if slices.Max(p.From) == slices.Min(p.From) {
		return p.From[0], true
	}
	if p.Before != nil {
		return *p.Before, true
	}
	return 0, false
}

// spans returns the producers with their numbers of events. Where it is not known at which number of events one began, it is in
// one span with the one before.
func (id *identity) spans() []ledger.Span {
	var spans []ledger.Span
	for k, p := range id.Producers {
		n, known := id.before(k)
		if known || k == 0 {
			spans = append(spans, ledger.Span{Before: n, After: slices.Min(p.From)})
		}
		s := &spans[len(spans)-1]
		s.Producers = append(s.Producers, p.ID)
		s.Through = allEvents
		if k+1 < len(id.Producers) {
			s.Through = slices.Max(id.Producers[k+1].From)
		}
	}
	return spans
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

// add begins a new producer. It takes the place of the last one where that has no event here, so that the list does not grow
// with each start of a copy.
func (id *identity) add(from []uint64, before *uint64) error {
	next, err := uuid.NewV7()
	if err != nil {
		return fmt.Errorf("make a producer id: %w", err)
	}
	p := producerSpan{ID: next.String(), From: from, Before: before}
	if slices.Equal(id.last().From, from) {
		id.Producers[len(id.Producers)-1] = p
	} else {
		id.Producers = append(id.Producers, p)
	}
	id.Fenced, id.Shared = false, true
	return nil
}

// sharedSession is the session under which a copy has events counted that it shares with the original, where the original has
// not met the store yet. It is lower than that of any process, so it takes nothing over.
const sharedSession = 1

// foreign says that a session in the store is that of another directory which took over after this one was last in contact.
func (id *identity) foreign(session uint64) bool {
	return session > max(id.Met, sharedSession) && session != id.Session
}

// owned returns up to which event of a partition the store has counted what is this directory's own, under the last id. taken
// says that another process has taken over the id, counted how far the store is. contents reads the journal.
func (id *identity) owned(ctx context.Context, st Progress, partition int, contents digester) (through, counted uint64, taken bool, err error) {
	known, err := st.Producer(ctx, partition, id.last().ID)
	if err != nil {
		return 0, 0, false, err
	}
	through = known.Offset
	if taken = id.Fenced || id.foreign(known.Session); taken && known.Session > id.Met {
		out, err := st.Apply(ctx, &store.Batch{
			Producer: id.last().ID, Session: id.Met, Partition: partition, Prev: known.Offset, Last: known.Offset,
		})
		if err != nil && !errors.Is(err, store.ErrFenced) {
			return 0, 0, false, err
		}
		through = out.Offset // where the first session after our last one took over
	}
	if id.Opened == nil || through <= *id.Opened {
		return through, known.Offset, taken, nil
	}
	same, err := id.sharedThrough(ctx, st, partition, contents)
	if err != nil {
		return 0, 0, false, err
	}
	if through > same { // else a copy has counted them, which has the same
		through = *id.Opened
	}
	return through, known.Offset, taken, nil
}

// digester returns a digest of an event of the journal, false where it cannot be read.
type digester func(seq uint64) (digest uint64, ok bool, err error)

// sharedMark is the id under which copies of files note in the store how far their journal is that of the original. The original may
// have accepted those events without a contact to the store since; when it meets the store, it must not take them for others.
func sharedMark(producer string) string { return producer + "..shared" }

// sharedDigest is the total of a mark in which the digest of the last shared event stands.
var sharedDigest = meter.Series{Family: "shared", A: "digest"}

// markShared notes in the store that events of an earlier producer, which are still to be counted, are those of the original.
func (id *identity) markShared(ctx context.Context, st Progress, producer, partition int, contents digester) error {
	mark, until := sharedMark(id.Producers[producer].ID), id.until(producer, partition)
	known, err := st.Producer(ctx, partition, mark)
	if err != nil || known.Offset >= until {
		return err
	}
	b := &store.Batch{Producer: mark, Session: sharedSession, Partition: partition, Prev: known.Offset, Last: until}
	digest, ok, err := contents(until)
	if err != nil {
		return err
	}
	if ok {
		b.Totals = meter.Totals{sharedDigest: digest}
	}
	out, err := st.Apply(ctx, b)
	if err == nil && out.Offset < until {
		err = fmt.Errorf("it is at %d, which another process has written meanwhile", out.Offset)
	}
	return err
}

// sharedThrough returns up to which event the journal is the same as that of a copy that counts under the last id, 0 where there is
// none. A disk that was put back to an older state has other events under the same numbers: the digest tells.
func (id *identity) sharedThrough(ctx context.Context, st Progress, partition int, contents digester) (uint64, error) {
	mark, err := st.Producer(ctx, partition, sharedMark(id.last().ID))
	if err != nil || mark.Offset == 0 {
		return 0, err
	}
	digest, ok, err := contents(mark.Offset)
	if theirs, noted := mark.Totals[sharedDigest]; err != nil || !ok || !noted || theirs != digest {
		return 0, err
	}
	return mark.Offset, nil
}
