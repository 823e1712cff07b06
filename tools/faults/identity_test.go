package faults

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"usaged/aggregator/store/redis/redistest"
)

// world is what the trials of identity work with: a daemon, a backup of its directory, and a copy of it that may run beside it.
type world struct {
	tr       *trial
	book     *book
	original *daemon
	backup   string // empty: there is none
	backedUp []int  // how often each batch had been accepted when it was made
	copied   *daemon
	steps    []string
}

// identity takes a directory through a random order of backups, restores, copies, kills, restarts and losses of the store, and sends
// events to whoever runs. What only a directory had that was replaced by its backup may be missing; nothing may be counted twice.
func identity(tr *trial) verdict {
	if tr.store == "redis" {
		tr.redis = redistest.Start(tr.T)
		tr.proxy = redistest.StartProxy(tr.T, tr.redis.Addr)
	}
	w := &world{tr: tr, book: &book{}, original: tr.newDaemon(filepath.Join(tr.TempDir(), "data"), "--prometheus.enabled=false")}
	w.original.destroyed = true
	if err := w.original.start(); err != nil {
		return w.original.judgeRefusal()
	}
	w.post()
	for range 7 {
		if v := w.step(); v.outcome != "" {
			tr.label = strings.Join(w.steps, ", ")
			return v
		}
	}
	tr.label = strings.Join(w.steps, ", ")
	return w.conclude()
}

// step does one thing that may happen to a directory or to its daemon.
func (w *world) step() verdict {
	things := map[string]func() verdict{
		"events": w.post, "kill and start": func() verdict { return w.restart(false) }, "stop and start": func() verdict { return w.restart(true) },
		"backup": w.backUp, "restore": w.restore,
	}
	names := []string{"events", "events", "kill and start", "stop and start", "backup", "restore"}
	if w.tr.store == "redis" {
		names = append(names, "Redis away", "Redis back", "copy", "FLUSHALL")
		things["Redis away"] = func() verdict { w.tr.proxy.Refuse(true); return verdict{} }
		things["Redis back"] = func() verdict { w.tr.proxy.Refuse(false); return verdict{} }
		things["copy"] = w.copyBeside
		things["FLUSHALL"] = func() verdict { w.tr.redis.Do("FLUSHALL"); return verdict{} }
	}
	name := names[w.tr.rng.IntN(len(names))]
	w.steps = append(w.steps, name)
	return things[name]()
}

// post sends some events to the original, and to the copy where it runs.
func (w *world) post() verdict {
	w.original.send(w.tr, w.book, 2)
	if w.copied != nil && !w.copied.exited() {
		w.copied.send(w.tr, w.book, 2)
	}
	return verdict{}
}

// restart ends the original and starts it.
func (w *world) restart(clean bool) verdict {
	if clean {
		if err := w.original.stop(); err != nil {
			return verdict{stuck, err.Error()}
		}
	}
	w.original.kill()
	return w.startOriginal()
}

func (w *world) startOriginal() verdict {
	if err := w.original.start(); err != nil {
		return w.original.judgeRefusal()
	}
	return verdict{}
}

// backUp copies the directory of the original while it is stopped.
func (w *world) backUp() verdict {
	if err := w.original.stop(); err != nil {
		return verdict{stuck, err.Error()}
	}
	w.backup = filepath.Join(w.tr.TempDir(), "backup")
	w.copyDir(w.original.dir, w.backup)
	w.backedUp = w.book.acceptedTries()
	return w.startOriginal()
}

// restore replaces the directory of the original by its backup.
func (w *world) restore() verdict {
	if w.backup == "" {
		return verdict{}
	}
	w.original.kill()
	if err := os.RemoveAll(w.original.dir); err != nil {
		w.tr.Fatal(err)
	}
	w.copyDir(w.backup, w.original.dir)
	w.book.doubt(w.backedUp)
	return w.startOriginal()
}

// copyBeside starts a daemon on a copy of the directory beside the original, once.
func (w *world) copyBeside() verdict {
	if w.copied != nil {
		return verdict{}
	}
	dir := filepath.Join(w.tr.TempDir(), "copy")
	if err := w.original.stop(); err != nil {
		return verdict{stuck, err.Error()}
	}
	w.copyDir(w.original.dir, dir)
	w.copied = w.tr.newDaemon(dir, "--prometheus.enabled=false")
	w.copied.destroyed = true
	if err := w.copied.start(); err != nil {
		return w.copied.judgeRefusal()
	}
	return w.startOriginal()
}

func (w *world) copyDir(from, to string) {
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		w.tr.Fatal(err)
	}
}

// conclude brings Redis back, starts both daemons again, and judges.
func (w *world) conclude() verdict {
	if w.copied == nil && w.tr.store == "sqlite" {
		return w.original.concludes(w.book)
	}
	w.tr.proxy.Refuse(false)
	for _, d := range []*daemon{w.copied, w.original} {
		if d == nil {
			continue
		}
		if err := d.stop(); err != nil {
			return verdict{stuck, err.Error()}
		}
		if err := d.start(); err != nil {
			return d.judgeRefusal()
		}
	}
	var v verdict
	err := w.original.awaitFor(rest, "exact figures", func() (bool, string, error) {
		state := ""
		for _, d := range []*daemon{w.copied, w.original} {
			if d == nil {
				continue
			}
			shown, err := d.settled()
			if err != nil {
				return false, "", err
			}
			// What a directory accepted is no more the whole of what Redis has: only the summary is of all.
			v = d.judge(w.book, &view{Summary: shown.Summary, Ledger: shown.Ledger, partial: true})
			state += fmt.Sprint(shown.Ledger)
		}
		return v.outcome == exact, fmt.Sprint(v, state), nil
	})
	if err != nil && v.outcome == "" {
		return verdict{stuck, err.Error()}
	}
	return v
}
