// Package journal keeps batches of opaque entries durably, in order, and numbered.
//
// It knows bytes and sequence numbers, not what an entry means. It promises:
//
//   - What [Journal.Append] and [Journal.Note] have acknowledged is on disk, fsynced, and survives a crash at any
//     moment. What they have refused with [ErrUnavailable] is never readable, not even after a restart.
//
//   - Where neither can be promised, because the disk hangs or takes neither the batch nor the cut behind it, the answer
//     comes within [Config.Patience] all the same, and is [ErrUnknown].
//
//   - Entries ("events") are numbered from 1 without holes, and the numbering never restarts, also when every old
//     segment has been removed.
//
//   - Readers see durable records only, and see them in order.
//
//   - Damage is never passed over silently: [Open] refuses it with a [DamageError], and a [Reader] that meets it
//     later reports the number of missing events in [Record.Gap].
//
//   - A read error is an error, a [ReadError]. It is never taken for damage, for a missing event or for the end. Damage, and the
//     torn tail of a crash, are bytes that were read twice alike, through two descriptors, and hold no whole record.
//
//   - [Open] changes nothing before it has read all that it judges by. What it cuts off is kept in damaged/, 64 MiB at most.
//
//   - A disk that is full or read-only stops writing alone: what is there can be read, and [Open] opens it.
//
//   - A segment that was deleted while the journal was not open is missed, also when it was the oldest or the newest.
//
// What it does not promise: after a crash, rot in the very last record cannot be told from a tear, and is cut off like one; and
// how many events were in the newest segment, when that is missing after a crash, is not known.
//
// All methods of a Journal are safe for concurrent use; a Reader belongs to one goroutine. Only one process may have a
// journal open for writing: the caller holds a lock, this package doesn't.
//
//	j, err := journal.Open(journal.Config{Dir: dir})
//	...
//	first, err := j.Append(journal.Batch{N: 1, Entries: journal.AppendEntry(nil, entry)})
//	...
//	r, err := j.Reader(0)
//	for {
//		changed := j.Changed()
//		rec, err := r.Next()
//		if errors.Is(err, io.EOF) {
//			<-changed
//			continue
//		}
//		for seq, entry := range rec.Each {
//			...
//		}
//	}
//
// # Files
//
// The directory holds the segments 00000000, 00000001, … in the format of prometheus/tsdb/wlog (pages of 32 KiB,
// fragments with a CRC-32C, snappy), the file producer.id, the file bounds.json, which says which segments must be there, and
// damaged/ where [Repair] moves what it replaced.
//
// A commit group is one wlog record, and is synced before the next is written. So a crash can tear the last record
// of the last segment only, and a bad place with a whole record behind it is damage. No group crosses a segment. Each
// segment begins with a mark, so that the numbering outlives the segments before it, and a clean stop ends with one, so
// that rot in the last data record isn't mistaken for a torn tail.
//
// # Record
//
// Integers are big endian.
//
//	 0       1       5      6             22        30       34        42
//	+-------+-------+------+-------------+---------+--------+---------+------
//	| ver=1 | crc   | kind | producer id | first   | count  | stamp   | body
//	+-------+-------+------+-------------+---------+--------+---------+------
//
//	ver       format version
//	crc       CRC-32C of everything behind it. The fragments have checksums of their own; this one refuses a record
//	          put together from fragments of two
//	kind      1 events, 2 note, 3 mark, 4 gap
//	producer  UUID of the journal that wrote the record
//	first     sequence number of the first event; in the other kinds, the number that the next event gets
//	count     number of events, 0 in the other kinds
//	stamp     milliseconds since 1970
//	body      events: per entry an uvarint length and as many bytes; note: the payload; mark and gap: empty
//
// An entry is blanked by writing length 0 in its place; the count and so all numbers stay. A gap is written by [Repair]
// where events are lost: only behind it may the numbers jump.
package journal

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/tsdb/wlog"
)

var (
	// ErrUnavailable says that the journal cannot accept now: writing failed and has not succeeded since, or the
	// journal is closed. What was refused with it is not in the journal.
	ErrUnavailable = errors.New("journal unavailable")
	// ErrUnknown says that it is not known whether what was given is in the journal, or will be: the disk has not answered
	// in time, or has neither taken the batch nor let it be cut off. Give it again, with the same ids.
	ErrUnknown = errors.New("the outcome is unknown")
	// ErrGone says that the events asked for have been removed.
	ErrGone = errors.New("events are no longer in the journal")
)

// Config says where a journal lies and whom it tells.
type Config struct {
	// Dir holds the journal and nothing else. Required; made where absent.
	Dir string
	// SegmentBytes is the size at which a segment ends, a multiple of 32 KiB. Default 64 MiB. It also bounds a batch.
	SegmentBytes int
	// Now stamps records. Default time.Now.
	Now func() time.Time
	// Log gets warnings about torn tails, damage and outages. Default: discarded.
	Log *slog.Logger
	// Metrics gets counters and gauges, see [Help]. Default: not kept.
	Metrics *metrics.Set
	// Registerer gets histograms. Default: not registered.
	Registerer prometheus.Registerer
	// Patience is how long a call of the disk may take before those who wait are answered. Default 5 s.
	Patience time.Duration
	// Committed is called for each batch of Append in the order of the sequence numbers, when the batch is durable, and
	// before Append returns and a reader can see it. All appends wait for it. It must not call the journal.
	Committed func(first uint64, b Batch)
}

const (
	defaultSegmentBytes = 64 << 20
	defaultPatience     = 5 * time.Second
)

// Journal is an open journal.
type Journal struct {
	cfg     Config
	id      uuid.UUID
	metrics *journalMetrics
	queue   queue
	table   table
	bounds  boundsKeeper
	damage  damageLog

	// maxRecord is the size of the largest record that fits a segment.
	maxRecord int

	// stop is closed by Close, and ends the wait in an outage; done is closed when the committer has ended, and watched when
	// watch has.
	stop      chan struct{}
	done      chan struct{}
	watched   chan struct{}
	closeOnce sync.Once
	closeErr  error

	// The committer owns the fields below.

	late   *recovery // what Open could not write, nil when that is done
	log    *wlog.WL  // nil during an outage, once it could be closed
	file   *os.File  // the current segment, to ask for its size
	record []byte    // the record being written
	stuck  []stuckLog
}

// Open opens the journal in cfg.Dir, and makes it where there is none. A torn tail is cut, and kept in damaged/. Where
// records are missing it returns a *[DamageError], and where something could not be read a *[ReadError]; then nothing was
// changed. A journal that holds something is opened although the disk takes no writes, because it is full for example: it
// can be read, and accepts as soon as the disk does.
func Open(cfg Config) (*Journal, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	id, err := loadID(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	j := &Journal{
		cfg:       cfg,
		id:        id,
		maxRecord: room(openingBytes, cfg.SegmentBytes),
		stop:      make(chan struct{}),
		done:      make(chan struct{}),
		watched:   make(chan struct{}),
	}
	j.queue.init()
	if j.metrics, err = newMetrics(cfg, j); err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	recovered, err := newRecovery(cfg.Dir, cfg.Log, j.metrics)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	j.table.init(recovered.segments, recovered.next)
	j.bounds.dir = cfg.Dir
	j.bounds.b.recovered(recovered.segments, recovered.next)
	if err := j.start(recovered); err != nil {
		if len(recovered.segments) == 0 || !refusesWrites(err) {
			return nil, fmt.Errorf("open journal: %w", err)
		}
		j.late = recovered
		j.metrics.failures.Inc()
		j.queue.refuse = fmt.Errorf("%w: %w", ErrUnavailable, err)
		cfg.Log.Error("the disk takes no writes: the journal can be read, and accepts when it does", "err", err)
	}
	go j.run()
	go j.watch()
	return j, nil
}

// ID returns the UUIDv7 that was made with the journal.
func (j *Journal) ID() string { return j.id.String() }

// Start returns the number of the first event kept, 1 for a fresh journal. It is End()+1 where none is kept.
func (j *Journal) Start() uint64 { return j.table.start() }

// End returns the number of the last durable event, 0 if there never was one.
func (j *Journal) End() uint64 { return j.table.end() }

// Changed returns a channel that is closed at the next commit, and when the journal accepts again after it could not.
// Take it before reading up to io.EOF or asking Ready, so that nothing falls between.
func (j *Journal) Changed() <-chan struct{} { return j.table.watch() }

// Ready returns nil, or an error that wraps [ErrUnavailable] and says why the journal cannot accept now.
func (j *Journal) Ready() error { return j.queue.refusal() }

// Segments returns the segments, oldest first. The last one is being written.
func (j *Journal) Segments() []Segment { return j.table.list() }

// Roll seals the current segment and begins a new one. It does nothing when the current one holds no events and notes.
func (j *Journal) Roll() error {
	_, err := j.submit(func(q *queue) (*group, int) { return q.push(&group{kind: groupRoll}), 0 })
	return err
}

// Close commits what was submitted, marks the clean end and closes the files. Readers stay usable. On an error the mark
// may be missing; what was acknowledged is durable all the same. Later calls return what the first returned. While the disk
// hangs it returns after twice Config.Patience, and leaves a goroutine behind that waits for it.
func (j *Journal) Close() error {
	j.closeOnce.Do(func() {
		j.queue.close(fmt.Errorf("%w: it is closed", ErrUnavailable))
		close(j.stop)
		finished := make(chan error, 1)
		go func() {
			<-j.done
			<-j.watched
			finished <- j.finish()
		}()
		limit := time.NewTimer(2 * j.cfg.Patience)
		defer limit.Stop()
		select {
		case j.closeErr = <-finished:
		case <-limit.C:
			j.closeErr = fmt.Errorf("close journal: the disk has not answered within %s: what was acknowledged is durable, and the next start "+
				"looks at what was being written", 2*j.cfg.Patience)
		}
	})
	return j.closeErr
}

func (c Config) withDefaults() (Config, error) {
	if c.Dir == "" {
		return c, errors.New("open journal: no directory given")
	}
	if c.SegmentBytes == 0 {
		c.SegmentBytes = defaultSegmentBytes
	}
	if c.SegmentBytes < 0 || c.SegmentBytes%pageBytes != 0 {
		return c, fmt.Errorf("open journal: segment size %d is not a multiple of %d", c.SegmentBytes, pageBytes)
	}
	if c.Patience == 0 {
		c.Patience = defaultPatience
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Metrics == nil {
		c.Metrics = metrics.NewSet()
	}
	return c, nil
}
