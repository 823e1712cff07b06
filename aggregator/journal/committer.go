package journal

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/prometheus/prometheus/tsdb/wlog"
	"github.com/prometheus/prometheus/util/compression"
)

// keepBytes is the largest record buffer that is kept for the next record.
const keepBytes = 16 << 20

// diskBlockBytes is the least that a file takes on most file systems.
const diskBlockBytes = 4 << 10

// run is the committer: the only goroutine that writes. It ends when the queue is closed and empty.
func (j *Journal) run() {
	defer close(j.done)
	if j.late != nil {
		j.startLate()
	}
	for g := j.queue.take(); g != nil; g = j.queue.take() {
		if err := j.commit(g); err != nil {
			j.outage(g, err)
			j.queue.settled()
			continue
		}
		g.answer(nil)
		if j.queue.settled() {
			j.table.notify()
			j.cfg.Log.Info("the disk answers again and the journal accepts again")
		}
		runtime.Gosched() // let those answered submit again, so that they share the next sync
	}
}

// watch answers those who wait while a call of the disk hangs. A stalled volume may never return from an fsync, and the
// committer with it; senders must be told in time all the same. It ends with the committer.
func (j *Journal) watch() {
	defer close(j.watched)
	ticker := time.NewTicker(min(j.cfg.Patience, time.Second) / 10)
	defer ticker.Stop()
	waited := fmt.Sprintf("a batch was neither made durable nor cut off within %s: the disk has not answered, or refuses both", j.cfg.Patience)
	unknown := fmt.Errorf("%w: %s", ErrUnknown, waited)
	refusal := fmt.Errorf("%w: %s", ErrUnavailable, waited)
	for {
		select {
		case <-ticker.C:
			if j.queue.overdue(j.cfg.Patience, unknown, refusal) {
				j.metrics.stalls.Inc()
				j.cfg.Log.Error("a batch was neither made durable nor cut off in time and the journal stopped accepting", "waited_seconds", j.cfg.Patience.Seconds())
			}
		case <-j.done:
			return
		}
	}
}

// commit makes a group durable and lets readers see it.
func (j *Journal) commit(g *group) error {
	if g.kind == groupRoll {
		if _, bare := j.table.current(); bare {
			return nil
		}
		return j.roll()
	}
	now := j.cfg.Now()
	g.first = j.table.end() + 1
	if g.kind == groupSkip {
		if g.skip < g.first {
			return nil
		}
		g.n = int(g.skip + 1 - g.first)
	}
	j.encode(g, now)
	current, _ := j.table.current()
	if len(j.record) > room(current.Bytes, j.cfg.SegmentBytes) {
		if err := j.roll(); err != nil {
			return err
		}
	}
	size, err := j.write(j.record)
	if err != nil {
		return err
	}
	if j.cfg.Committed != nil {
		first := g.first
		for _, b := range g.batches {
			j.cfg.Committed(first, b)
			first += uint64(b.N)
		}
	}
	j.table.grow(size, g.n, now)
	if g.kind == groupEvents {
		j.metrics.commitEvents.Observe(float64(g.n))
		j.queue.recycle(g)
	}
	return nil
}

// encode puts the record of a group into j.record.
func (j *Journal) encode(g *group, now time.Time) {
	h := header{kind: kindEvents, producer: j.id, first: g.first, n: g.n, stampMillis: now.UnixMilli()}
	switch g.kind {
	case groupNote:
		h.kind = kindNote
	case groupSkip:
		h.kind, h.first, h.n = kindGap, g.skip+1, 0
	}
	if cap(j.record) > keepBytes {
		j.record = nil
	}
	j.record = h.appendTo(j.record[:0])
	for _, b := range g.batches {
		j.record = append(j.record, b.Entries...)
	}
	j.record = append(j.record, g.note...)
	seal(j.record)
}

// write writes a record that fits the current segment, and returns the size of the file when it is durable.
func (j *Journal) write(record []byte) (size int64, err error) {
	if err := j.log.Log(record); err != nil {
		return 0, fmt.Errorf("write journal: %w", err)
	}
	start := time.Now()
	err = j.log.Sync()
	j.metrics.fsyncSeconds.Observe(time.Since(start).Seconds())
	if err != nil {
		return 0, fmt.Errorf("sync journal: %w", err)
	}
	info, err := j.file.Stat()
	if err != nil {
		return 0, fmt.Errorf("size of journal segment: %w", err)
	}
	if err := checkName(j.file.Name(), info); err != nil {
		return 0, err
	}
	j.metrics.commits.Inc()
	j.metrics.appended.Add(len(record))
	return info.Size(), nil
}

// checkName returns an error where a segment no longer has its name. What is written to a deleted file, or to one in a
// directory that was moved away, is lost at the next start, so it must not be acknowledged.
func checkName(path string, info os.FileInfo) error {
	named, err := os.Stat(path)
	if err == nil && !os.SameFile(info, named) {
		err = errors.New("another file has taken its place")
	}
	if err != nil {
		return fmt.Errorf("journal segment %s was deleted or moved while it was written (%w): put it back, or restart the daemon", path, err)
	}
	return nil
}

// room returns the size of the largest record that fits behind offset in a segment. It counts as wlog does, but
// without the compression: a segment may end early, and never does wlog begin one by itself.
func room(offset int64, segmentBytes int) int {
	pages := segmentBytes/pageBytes - int(offset/pageBytes) - 1
	return pageBytes - int(offset%pageBytes) - fragmentHeaderBytes + pages*(pageBytes-fragmentHeaderBytes)
}

// roll ends the current segment and begins the next one.
func (j *Journal) roll() error {
	// NextSegmentSync only logs the error of its fsync. It doesn't matter: all that is acknowledged has been synced, and
	// what it adds is padding.
	index, err := j.log.NextSegmentSync()
	if err != nil {
		return fmt.Errorf("begin next journal segment: %w", err)
	}
	return j.openCurrent(index)
}

// begin opens the log on a fresh segment behind all that exist.
func (j *Journal) begin() error {
	log, err := wlog.NewSize(j.cfg.Log, nil, j.cfg.Dir, j.cfg.SegmentBytes, compression.Snappy)
	if err != nil {
		return fmt.Errorf("begin journal segment: %w", err)
	}
	j.log = log
	_, index, err := wlog.Segments(j.cfg.Dir)
	if err != nil {
		return fmt.Errorf("begin journal segment: %w", err)
	}
	return j.openCurrent(index)
}

// openCurrent takes over a segment that the log has just made, and writes its opening mark. Until that is durable the
// segment doesn't count: after a crash Open removes it.
func (j *Journal) openCurrent(index int) error {
	if err := syncDir(j.cfg.Dir); err != nil { // else a crash could lose the file with all that is acknowledged in it
		return err
	}
	file, err := os.Open(wlog.SegmentName(j.cfg.Dir, index))
	if err != nil {
		return fmt.Errorf("open journal segment: %w", err)
	}
	j.closeFile()
	j.file = file
	now := j.cfg.Now()
	size, err := j.write(j.mark(now))
	if err != nil {
		return err
	}
	j.table.begin(index, size, now)
	j.noteEnd(false)
	return nil
}

// mark returns a record that carries nothing but the number that comes next.
func (j *Journal) mark(now time.Time) []byte {
	h := header{kind: kindMark, producer: j.id, first: j.table.end() + 1, stampMillis: now.UnixMilli()}
	record := h.appendTo(nil)
	seal(record)
	return record
}

func (j *Journal) closeFile() {
	if j.file != nil {
		j.file.Close() // opened for reading: nothing can be lost
		j.file = nil
	}
}

// finish marks the clean end and closes the log. The committer has ended.
func (j *Journal) finish() error {
	defer j.closeFile()
	// On a full disk each attempt writes as much of the log's last page as there is room for, and the cut makes room again.
	for range pageBytes / diskBlockBytes {
		if err := j.closeStuck(); err != nil {
			j.cfg.Log.Warn("journal could not cut off a refused batch", "err", err)
			break
		}
		if len(j.stuck) == 0 {
			break
		}
	}
	if j.log == nil { // closed in an outage: the file ends with what is acknowledged
		return nil
	}
	if err := j.markEnd(); err != nil {
		return fmt.Errorf("close journal: %w", errors.Join(err, j.abandon()))
	}
	j.noteEnd(true)
	if err := j.log.Close(); err != nil { // it could not pad the page, which nobody needs
		if err := j.abandon(); err != nil {
			return fmt.Errorf("close journal: %w", err)
		}
	}
	j.log = nil
	return nil
}

func (j *Journal) markEnd() error {
	current, bare := j.table.current()
	if bare {
		return nil // the opening mark does as well
	}
	now := j.cfg.Now()
	mark := j.mark(now)
	if len(mark) > room(current.Bytes, j.cfg.SegmentBytes) {
		return j.roll()
	}
	size, err := j.write(mark)
	if err != nil {
		return err
	}
	j.table.grow(size, 0, now)
	return nil
}
