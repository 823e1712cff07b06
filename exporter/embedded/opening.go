package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/tsdb"

	"usaged/aggregator/aside"
)

const (
	// minReopen and maxReopen bound the wait before the next attempt at opening.
	minReopen = time.Second
	maxReopen = time.Minute
	// patientAttempts is how often reading may fail before what cannot be read is taken for damaged: a disk may recover.
	patientAttempts = 3
	// stopPatience is how long a stop waits for an attempt under way: it reads the log, or asks for the name of this machine. What it
	// does may be cut off at any point.
	stopPatience = 5 * time.Second
)

// errTSDB marks an error of the TSDB itself, which files in its directory may be the cause of.
var errTSDB = errors.New("the TSDB")

// tendEvery is how often the TSDB is tended: as often as a TSDB does by itself. Tests have less time.
var tendEvery = time.Minute

// keepOpen opens the TSDB, and opens it again where writing to it has failed, until ctx ends.
func (p *Prometheus) keepOpen(ctx context.Context) {
	defer close(p.ended)
	for p.open(ctx) {
		p.firstOpened.Do(func() { close(p.opened) })
		if err := p.tend(ctx); err != nil {
			p.failures.Inc()
			p.log.Error("the embedded Prometheus could not write its samples and is opened again; events are counted and exposed without it", "err", err)
			p.reopen()
		}
	}
	p.firstOpened.Do(func() { close(p.opened) })
}

// open opens the TSDB, which takes long where much is to be replayed, and starts everything on it. Where that fails it sets
// aside what is damaged and tries again, until it succeeds or ctx ends, when it returns false.
func (p *Prometheus) open(ctx context.Context) bool {
	began, wait := time.Now(), minReopen
	repairs := repair{dir: p.cfg.Dir, shelf: p.cfg.Damaged, allGone: p.Repaired()}
	for ctx.Err() == nil {
		err := p.attempt(ctx)
		if err == nil {
			p.log.Info("the embedded Prometheus is ready", "elapsed_seconds", time.Since(began).Seconds())
			return true
		}
		if ctx.Err() != nil { // a stop, which says nothing about the files
			return false
		}
		p.failures.Inc()
		repaired, repairErr := repairs.next(err)
		if repaired {
			p.repaired.Store(true)
			continue
		}
		p.log.Error("the embedded Prometheus did not start; events are counted and exposed without it until another attempt succeeds",
			"err", errors.Join(err, repairErr), "retry_seconds", wait.Seconds())
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
			wait = min(2*wait, maxReopen)
		case <-ctx.Done():
			timer.Stop()
		}
	}
	return false
}

// tend moves what is complete in memory to the disk from time to time, until ctx ends or that fails. The TSDB does the same in a
// goroutine of its own, where a failure would end the daemon: a full disk, or no descriptors left.
func (p *Prometheus) tend(ctx context.Context) (err error) {
	defer recovered(func(cause error) { err = fmt.Errorf("write the samples of the last hours: %w", cause) })
	ticker := time.NewTicker(tendEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			p.running.Load().db.ForceHeadMMap()
		case <-ctx.Done():
			return nil
		}
	}
}

// reopen closes the TSDB for another attempt, which finds in its log whatever was appended.
func (p *Prometheus) reopen() {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.running.Swap(nil)
	p.ready.Set(0)
	if err := r.close(context.Background()); err != nil {
		p.log.Warn("the embedded Prometheus could not be closed cleanly; it reads its log at the next start", "err", err)
	}
	r.metrics.revoke()
}

// Repaired says whether samples were set aside to open the TSDB, so that what [Prometheus.WritePast] has written may be gone.
func (p *Prometheus) Repaired() bool { return p.repaired.Load() }

// attempt opens the TSDB and starts everything on it, or leaves nothing behind but the error.
func (p *Prometheus) attempt(ctx context.Context) (err error) {
	reg := &revocable{Registerer: p.cfg.Registerer}
	defer func() {
		if err != nil {
			reg.revoke()
		}
	}()
	r, err := p.cfg.start(slog.New(quiet{p.log.Handler()}), reg)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if ctx.Err() != nil { // the stop does not wait for this attempt
		return errors.Join(ErrNotOpen, r.close(context.Background()))
	}
	if err := r.apply(p.settings); err != nil { // of a reload meanwhile, perhaps
		return errors.Join(err, r.close(context.Background()))
	}
	r.metrics = reg
	p.running.Store(r)
	p.ready.Set(1)
	return nil
}

// repair sets aside what keeps a TSDB from opening: first the blocks that do not open by themselves, then the log and the chunks
// that belong to it, at last everything. A TSDB holds samples alone; events are counted from the journal.
type repair struct {
	dir     string
	shelf   *aside.Shelf
	unread  int  // attempts that ended in an error of reading
	logGone bool // the log has been set aside
	allGone bool // everything has been, so that more of that would not help
}

// next sets something aside because of an error, and says whether another attempt should be made at once.
func (r *repair) next(why error) (repaired bool, err error) {
	if !errors.Is(why, errTSDB) || r.shelf == nil || r.allGone || isShortage(why) {
		return false, nil
	}
	if isUnreadable(why) {
		if r.unread++; r.unread < patientAttempts {
			return false, nil
		}
	}
	if bad := brokenBlocks(r.dir); len(bad) > 0 {
		return r.move(why, bad...)
	}
	if !r.logGone {
		r.logGone = true
		return r.move(why, filepath.Join(r.dir, "wal"), filepath.Join(r.dir, "wbl"), filepath.Join(r.dir, "chunks_head"))
	}
	r.allGone = true
	return r.move(why, r.dir)
}

func (r *repair) move(why error, paths ...string) (bool, error) {
	err := r.shelf.Move(aside.TSDB, why, paths...)
	return err == nil, err
}

// clearPlace sets aside a file that has the name of the directory. Others keep files of theirs in that, so it is done before Open
// returns.
func (p *Prometheus) clearPlace() {
	info, err := os.Stat(p.cfg.Dir)
	if err != nil || info.IsDir() || p.cfg.Damaged == nil {
		return
	}
	if err := p.cfg.Damaged.Move(aside.TSDB, errors.New("a file has the name of the directory of the TSDB"), p.cfg.Dir); err != nil {
		p.log.Error("a file has the name of the directory of the TSDB; move it away", "file", p.cfg.Dir, "err", err)
		p.failures.Inc()
		return
	}
	p.repaired.Store(true)
}

// isShortage says whether an error is about something that the machine has too little of, and not about what is on the disk.
func isShortage(err error) bool {
	for _, errno := range []syscall.Errno{
		syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EAGAIN,
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// isUnreadable says whether an error is that something could not be read, which another attempt may find otherwise.
func isUnreadable(err error) bool {
	return errors.Is(err, syscall.EIO) || errors.Is(err, os.ErrPermission)
}

// brokenBlocks returns the blocks in a directory that do not open.
func brokenBlocks(dir string) (broken []string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	for _, entry := range entries {
		if _, err := ulid.ParseStrict(entry.Name()); err != nil {
			continue
		}
		path := filepath.Join(dir, entry.Name())
		if !opens(path) {
			broken = append(broken, path)
		}
	}
	return broken
}

// opens says whether a block opens. Its files are read through memory maps, so that a fault of the disk is a fault of memory.
func opens(block string) (ok bool) {
	defer recovered(func(error) { ok = false })
	b, err := tsdb.OpenBlock(slog.New(slog.DiscardHandler), block, nil, nil)
	if err != nil {
		return false
	}
	return b.Close() == nil
}

// openGuarded opens the TSDB. What panics because of what is in its files is an error.
func openGuarded(cfg *Config, log *slog.Logger, reg prometheus.Registerer) (db *tsdb.DB, err error) {
	defer recovered(func(cause error) { err = fmt.Errorf("open %w in %s: %w", errTSDB, cfg.Dir, cause) })
	return openTSDB(cfg, log, reg)
}

// revocable notes what was registered, so that it can be taken back.
type revocable struct {
	prometheus.Registerer
	registered []prometheus.Collector
}

func (r *revocable) Register(c prometheus.Collector) error {
	err := r.Registerer.Register(c)
	if err == nil {
		r.registered = append(r.registered, c)
	}
	return err
}

func (r *revocable) MustRegister(cs ...prometheus.Collector) {
	for _, c := range cs {
		if err := r.Register(c); err != nil {
			panic(err)
		}
	}
}

func (r *revocable) revoke() {
	for _, c := range r.registered {
		r.Unregister(c)
	}
}
