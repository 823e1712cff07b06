package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/prometheus/prometheus/tsdb/wlog"
)

const (
	// warnEvery is the least time between two warnings that the cut is not made yet.
	warnEvery = 10 * time.Second
	// probeEvery is the time between attempts to write again. A full disk then costs four small writes a second.
	probeEvery = 250 * time.Millisecond
	// probeBytes is what must be writable before the journal accepts again: a few single events and their metadata.
	probeBytes = 128 << 10
	probeFile  = "probe.tmp"
)

// refusesWrites reports whether an error says that the disk takes no writes now, and may take them again.
func refusesWrites(err error) bool {
	if isReadError(err) {
		return false
	}
	return slices.ContainsFunc([]error{syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, syscall.EIO, syscall.EMFILE, syscall.ENFILE},
		func(e error) bool { return errors.Is(err, e) })
}

// start writes what has to be written before the journal can accept.
func (j *Journal) start(r *recovery) error {
	if err := syncDir(filepath.Dir(filepath.Clean(j.cfg.Dir))); err != nil {
		return err
	}
	if err := r.apply(); err != nil {
		return err
	}
	if err := j.begin(); err != nil {
		return errors.Join(err, j.abandon())
	}
	return nil
}

// startLate does what start could not do when the journal was opened. It returns when the journal accepts, or is to close.
func (j *Journal) startLate() {
	for {
		err := j.late.apply()
		if err == nil {
			err = j.resume()
		}
		if err == nil {
			break
		}
		j.queue.stopAccepting(fmt.Errorf("%w: %w", ErrUnavailable, err))
		if !j.pause(probeEvery) {
			return
		}
	}
	j.late = nil
	j.queue.startAccepting()
	j.table.notify()
	j.cfg.Log.Info("journal accepts")
}

// outage is entered when a write or sync failed for g. It refuses everything, cuts off what was not acknowledged, and
// returns when the journal accepts again on a fresh segment, or is to close. A file whose fsync failed is never written
// again: the kernel may have dropped the pages, so a later fsync that succeeds proves nothing.
func (j *Journal) outage(g *group, cause error) {
	refusal := fmt.Errorf("%w: %w", ErrUnavailable, cause)
	j.metrics.failures.Inc()
	j.cfg.Log.Error("journal stopped accepting", "err", cause)
	j.queue.stopAccepting(refusal)
	began := time.Now()
	if !j.cutOff(g, refusal) {
		return
	}
	for err := j.resume(); err != nil; err = j.resume() {
		if !j.pause(probeEvery) {
			return
		}
	}
	j.queue.startAccepting()
	j.table.notify()
	j.cfg.Log.Info("journal accepts again", "elapsed_seconds", time.Since(began).Seconds())
}

// cutOff abandons the log, cuts off what was not acknowledged, and then answers g as refused: after the cut it cannot come
// back, whatever crashes. Where the cut is not made within Config.Patience, because the disk refuses that too or hangs,
// watch answers that the outcome is unknown: a crash now could leave the batch in the journal. It returns false when the
// journal is to close.
func (j *Journal) cutOff(g *group, refusal error) bool {
	var warned time.Time
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, probeEvery) {
		err := j.abandon()
		if err == nil {
			g.answer(refusal)
			return true
		}
		if time.Since(warned) > warnEvery {
			warned = time.Now()
			j.cfg.Log.Warn("journal could not cut off a refused batch", "err", err)
		}
		if !j.pause(wait) {
			if g.isAnswered() {
				return false
			}
			time.Sleep(wait) // closing waits for the cut too
		}
	}
}

// pause waits, and returns false when the journal is to close.
func (j *Journal) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-j.stop:
		return false
	}
}

// abandon gives up the open log and leaves on disk what is acknowledged, and nothing more.
func (j *Journal) abandon() error {
	j.closeFile()
	if j.log != nil {
		// Closing flushes what the log holds of the refused record, so it comes before the cut.
		if j.log.Close() != nil {
			current, _ := j.table.current()
			j.stuck = append(j.stuck, stuckLog{j.log, current.Index, current.Bytes})
		}
		j.log = nil
	}
	if err := j.cut(); err != nil {
		return err
	}
	return j.closeStuck() // the cut may have made room
}

// cut cuts the last segment at its last acknowledged byte and removes segments that never came to count.
func (j *Journal) cut() error {
	current, _ := j.table.current()
	indexes, err := segmentIndexes(j.cfg.Dir)
	if err != nil {
		return err
	}
	for _, index := range indexes {
		if index <= current.Index {
			continue
		}
		if err := os.Remove(wlog.SegmentName(j.cfg.Dir, index)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove journal segment: %w", err)
		}
	}
	if current.Index >= 0 {
		if err := truncate(wlog.SegmentName(j.cfg.Dir, current.Index), current.Bytes); err != nil {
			return err
		}
	}
	return syncDir(j.cfg.Dir)
}

// truncate cuts a file durably, and never makes it longer. It opens the file afresh: a descriptor that was open when an fsync
// failed reports that failure once more, whatever became of the cut.
func truncate(path string, bytes int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("cut segment: %w", err)
	}
	info, err := f.Stat()
	if err == nil && info.Size() > bytes {
		err = f.Truncate(bytes)
	}
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("cut segment: %w", err)
	}
	return nil
}

// stuckLog is an abandoned log that could not be closed, because closing flushes and that failed. It keeps a goroutine
// and a descriptor until closing succeeds or the process ends.
type stuckLog struct {
	log *wlog.WL
	// The segment and where it was cut.
	index int
	bytes int64
}

// closeStuck tries again to close abandoned logs, and cuts off what they flush. A crash between the two leaves a refused
// record at the end of a sealed segment; Open drops it, since the opening mark of the next segment disowns it.
func (j *Journal) closeStuck() error {
	var left []stuckLog
	var errs []error
	for _, s := range j.stuck {
		if s.log.Close() != nil {
			left = append(left, s)
		}
		err := truncate(wlog.SegmentName(j.cfg.Dir, s.index), s.bytes)
		if !errors.Is(err, fs.ErrNotExist) { // it may have been removed, or never have counted
			errs = append(errs, err)
		}
	}
	j.stuck = left
	return errors.Join(errs...)
}

// resume accepts on a fresh segment if the disk takes it. The probe comes first, so that a full disk isn't given
// one log after the other that cannot be closed.
func (j *Journal) resume() error {
	path := filepath.Join(j.cfg.Dir, probeFile)
	err := writeSynced(path, make([]byte, probeBytes))
	if removeErr := os.Remove(path); err == nil {
		err = removeErr
	}
	if err != nil {
		return err
	}
	if err := j.begin(); err != nil {
		return errors.Join(err, j.abandon())
	}
	if err := j.closeStuck(); err != nil {
		j.cfg.Log.Warn("journal could not cut off a refused batch", "err", err)
	}
	return nil
}
