package aggregator_test

import (
	"context"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"usaged/aggregator/meter"
	"usaged/aggregator/store"
	"usaged/aggregator/store/storetest"
)

// readFaults lets reads of the journal fail.
type readFaults struct {
	mu    sync.Mutex
	pass  int // so many reads are right before those that fail
	left  int // so many fail
	reads int // were made
}

func (f *readFaults) next() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reads++
	switch {
	case f.left == 0:
		return nil
	case f.pass > 0:
		f.pass--
		return nil
	}
	f.left--
	return syscall.EIO
}

// fail lets the next n reads fail.
func (f *readFaults) fail(n int) { f.failAfter(0, n) }

// failAfter lets n reads fail after some that are right.
func (f *readFaults) failAfter(pass, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pass, f.left = pass, n
}

func (f *readFaults) made() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reads
}

// openReading opens a daemon whose reads of the journal can be made to fail.
func openReading(t *testing.T, dir string, st store.Store) (*daemon, *readFaults) {
	d := openDaemon(t, dir, st)
	d.close()
	reads := &readFaults{}
	d.cfg.FailReads(reads.next)
	d.cfg.Metrics = metrics.NewSet()
	d.open()
	return d, reads
}

// reopen restarts a daemon that keeps metrics.
func (d *daemon) reopen() {
	d.t.Helper()
	d.close()
	d.cfg.Metrics = metrics.NewSet()
	d.open()
}

// balanced expects the ledger to balance right now, whatever goes on.
func (d *daemon) balanced(when string) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), time.Second)
	defer cancel()
	acc, err := d.agg.Ledger(ctx)
	if err != nil {
		d.t.Errorf("%s: %v", when, err)
		return
	}
	if a := acc.All; a.Accepted != d.accepted || a.Accepted != a.Counted+a.Duplicates+a.Pending+a.Damaged || a.Damaged > 0 {
		d.t.Errorf("%s: accepted %d, the accounts say %+v", when, d.accepted, a)
	}
	for name, a := range acc.Types {
		if a.Accepted != a.Counted+a.Duplicates+a.Pending {
			d.t.Errorf("%s: the accounts of %s say %+v", when, name, a)
		}
	}
}

// metric returns a counter or gauge of the daemon.
func (d *daemon) metric(name string) float64 {
	if c := d.cfg.Metrics.GetOrCreateCounter; name[len(name)-6:] == "_total" {
		return float64(c(name).Get())
	}
	return d.cfg.Metrics.GetOrCreateGauge(name, nil).Get()
}

// faultScript is what happens while a read fails: events of two partitions come in with ids that were there before, one partition
// falls back for a while, and, where it is asked for, the store loses everything.
func faultScript(st *faulty, d *daemon, l *ledger, skip func(time.Duration), loses bool) {
	other, own := usersOf(1, 2)
	send := func(ids ...string) {
		for _, id := range ids {
			d.accept(l, sent{UserID: own, Type: "a", ID: id}, sent{UserID: other, Type: "a", ID: id})
			time.Sleep(60 * time.Millisecond)
		}
	}
	send("1", "2")
	st.fail(0, 0, 1)         // the partition falls back
	send("8", "2", "3", "7") // "8" is kept; the others are one batch later: a repeated id, one that is new, and more
	time.Sleep(7 * time.Second)
	d.balanced("with a partition that fails")
	st.fail(0, 0, -1)
	send("4", "3")
	time.Sleep(7 * time.Second)
	d.balanced("with a partition that has caught up")
	if !loses {
		return // a store that is filled again from the journal would hide what was counted wrongly
	}
	skip(50 * time.Hour) // the ids can't be checked any more: only the verdicts in the journal tell what was a duplicate
	st.forget()
	time.Sleep(7 * time.Second)
	d.balanced("with a store that has lost everything")
}

// Whichever read of the journal fails, for once or for long, everything is counted once in the end and the ledger balances at any
// time.
func TestAnyReadOfTheJournalMayFail(t *testing.T) {
	reads := 0
	run := func(t *testing.T, pass, n int, loses bool) {
		dir := memoryDir(t)
		synctest.Test(t, func(t *testing.T) {
			st, l := newFaulty(2), newLedger()
			d, faults := openReading(t, dir, st)
			skip := d.skipTime()
			d.reopen()
			settle()
			began := faults.made()
			faults.failAfter(pass, n)
			faultScript(st, d, l, skip, loses)
			faults.fail(0)
			settle()
			if wrong := difference(t, l, st, d); wrong != "" {
				t.Error(wrong)
			}
			if got := d.metric("usaged_apply_stopped_partitions"); got != 0 {
				t.Errorf("%v partitions are said to be stopped", got)
			}
			reads = max(reads, faults.made()-began)
			d.reopen()
			settle()
			if wrong := difference(t, l, st, d); wrong != "" {
				t.Errorf("after a restart: %s", wrong)
			}
			d.close()
		})
	}
	run(t, 0, 0, true)
	if reads < 20 {
		t.Fatalf("the script makes %d reads, too few to try anything", reads)
	}
	for _, n := range []int{1, 3, 1 << 30} {
		for pass := range min(reads, 120) {
			for _, loses := range []bool{false, true} {
				t.Run(fmt.Sprintf("fail=%d/after=%d/loses=%t", n, pass, loses), func(t *testing.T) { run(t, pass, n, loses) })
			}
		}
	}
}

// A journal that cannot be read stops applying with an alarm and is never taken for damage; applying goes on by itself.
func TestJournalThatCannotBeReadIsAnAlarm(t *testing.T) {
	dir := memoryDir(t)
	synctest.Test(t, func(t *testing.T) {
		st, l := newFaulty(2), newLedger()
		d, reads := openReading(t, dir, st)
		settle()
		reads.fail(1 << 30)
		d.accept(l, sent{UserID: "ann", Type: "a"}, sent{UserID: "bob", Type: "a"})
		settle()
		d.balanced("while the journal cannot be read")
		if got := d.metric("usaged_apply_stopped_partitions"); got != 2 {
			t.Errorf("%v partitions are said to be stopped, want 2", got)
		}
		if got := d.metric("usaged_apply_read_errors_total"); got < 5 {
			t.Errorf("%v read errors are counted", got)
		}
		if got := d.metric("usaged_store_errors_total"); got != 0 {
			t.Errorf("%v errors of the store are counted", got)
		}
		reads.fail(0)
		settle()
		if wrong := difference(t, l, st, d); wrong != "" {
			t.Error(wrong)
		}
		if got := d.metric("usaged_apply_stopped_partitions"); got != 0 {
			t.Errorf("%v partitions are said to be stopped, want none", got)
		}
		d.close()
	})
}

// wrongTotals is a store that forgets one of the totals of a producer for a while.
type wrongTotals struct {
	*faulty
	mu    sync.Mutex
	wrong bool
}

func (w *wrongTotals) set(wrong bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wrong = wrong
}

func (w *wrongTotals) Producer(ctx context.Context, partition int, id string) (store.Producer, error) {
	st, err := w.faulty.Producer(ctx, partition, id)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.wrong {
		delete(st.Totals, meter.Series{Family: meter.FamilyEvents, A: "a"})
	}
	return st, err
}

// A ledger that does not balance is an alarm, and is counted anew by itself until it balances.
func TestLedgerThatDoesNotBalanceIsCountedAnew(t *testing.T) {
	dir := memoryDir(t)
	synctest.Test(t, func(t *testing.T) {
		st, l := &wrongTotals{faulty: newFaulty(1)}, newLedger()
		d, _ := openReading(t, dir, st)
		d.accept(l, sent{UserID: "ann", Type: "a"}, sent{UserID: "ann", Type: "b"})
		settle()
		d.close()
		st.set(true)
		d.cfg.Metrics = metrics.NewSet()
		d.open()
		settle()
		if got := d.metric("usaged_ledger_unbalanced"); got != 1 {
			t.Errorf("usaged_ledger_unbalanced is %v while a total is missing", got)
		}
		st.set(false)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if got := d.metric("usaged_ledger_unbalanced"); got != 0 {
			t.Errorf("usaged_ledger_unbalanced is %v after the totals are right again", got)
		}
		if d.metric("usaged_ledger_recounts_total") == 0 {
			t.Error("the ledger was not counted anew")
		}
		if wrong := difference(t, l, st, d); wrong != "" {
			t.Error(wrong)
		}
		d.close()
	})
}

// failingNth is a store that fails at the n-th call of any method that the applier uses.
type failingNth struct {
	*storetest.Memory
	mu           sync.Mutex
	calls        int
	first, count int  // calls that fail
	after        bool // they fail after having taken effect
}

func (f *failingNth) fails() (before, after bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.calls
	f.calls++
	failing := n >= f.first && n < f.first+f.count
	return failing && !f.after, failing && f.after
}

func (f *failingNth) Apply(ctx context.Context, b *store.Batch) (store.Outcome, error) {
	before, after := f.fails()
	if before {
		return store.Outcome{}, errInjected
	}
	out, err := f.Memory.Apply(ctx, b)
	if after {
		return store.Outcome{}, errInjected
	}
	return out, err
}

func (f *failingNth) Producer(ctx context.Context, partition int, id string) (store.Producer, error) {
	if before, after := f.fails(); before || after {
		return store.Producer{}, errInjected
	}
	return f.Memory.Producer(ctx, partition, id)
}

// Whichever call of the store fails, with or without having taken effect, everything is counted once and the ledger balances.
func TestAnyCallOfTheStoreMayFail(t *testing.T) {
	calls := 0
	run := func(t *testing.T, first, count int, after bool) {
		dir := memoryDir(t)
		synctest.Test(t, func(t *testing.T) {
			st, l := &failingNth{Memory: storetest.NewMemory(2), first: first, count: count, after: after}, newLedger()
			d, _ := openReading(t, dir, st.Memory)
			d.close()
			d.cfg.Store, d.cfg.Metrics = st, metrics.NewSet()
			d.open()
			for i, id := range []string{"1", "2", "1", "3", "2"} {
				d.accept(l, sent{UserID: "ann", Type: "a", ID: id}, sent{UserID: "bob", Type: "a", ID: id}, sent{UserID: "cy", Type: "b"})
				time.Sleep(time.Second)
				if i == 2 {
					d.reopen()
				}
			}
			settle()
			d.balanced("in the end")
			if wrong := difference(t, l, st, d); wrong != "" {
				t.Error(wrong)
			}
			calls = max(calls, st.calls)
			d.close()
		})
	}
	run(t, 0, 0, false)
	for _, after := range []bool{false, true} {
		for _, count := range []int{1, 3} {
			for first := range min(calls, 80) {
				t.Run(fmt.Sprintf("fail=%d/from=%d/after=%t", count, first, after), func(t *testing.T) { run(t, first, count, after) })
			}
		}
	}
}

// A daemon that cannot finish connecting takes the producer over once, and not again with every attempt.
func TestTakesOverOnceHoweverOftenItConnects(t *testing.T) {
	dir := memoryDir(t)
	synctest.Test(t, func(t *testing.T) {
		st, l := newFaulty(2), newLedger()
		d, reads := openReading(t, dir, st)
		d.accept(l, sent{UserID: "ann", Type: "a"})
		settle()
		d.close()
		for range 3 {
			before := session(t, st, d)
			st.fail(0, 0, 1) // one partition answers, the other doesn't
			d.cfg.Metrics = metrics.NewSet()
			d.open()
			time.Sleep(time.Minute)
			reads.fail(1 << 30)
			st.fail(0, 0, -1) // now it connects, but can't read the journal
			time.Sleep(time.Minute)
			reads.fail(0)
			settle()
			if took := session(t, st, d)>>20 - before>>20; took != 1 {
				t.Errorf("%d sessions took over in one run of the daemon, want 1", took)
			}
			d.accept(l, sent{UserID: "ann", Type: "a"})
			settle()
			d.close()
		}
		d.cfg.Metrics = metrics.NewSet()
		d.open()
		settle()
		if wrong := difference(t, l, st, d); wrong != "" {
			t.Error(wrong)
		}
		d.close()
	})
}

// session returns the highest session that the store knows of a daemon's producer.
func session(t *testing.T, st store.Store, d *daemon) uint64 {
	t.Helper()
	producers, err := st.Producers(t.Context())
	if err != nil || len(producers) != 1 {
		t.Fatalf("producers %+v, %v", producers, err)
	}
	return producers[0].Session
}
