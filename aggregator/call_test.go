package aggregator_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"usaged/aggregator/store"
)

// A partition that hangs holds up the others for a second, once, and nothing is lost.
func TestPartitionHangs(t *testing.T) {
	const partitions, hung = 4, 2
	dir := memoryDir(t)
	synctest.Test(t, func(t *testing.T) {
		st, l := newFaulty(partitions), newLedger()
		d := openDaemon(t, dir, st)
		settle()
		st.hang(hung)
		healthy, sick := usersOf(hung, partitions)
		longest, others := time.Duration(0), uint64(0)
		for i := range 300 {
			e := sent{UserID: healthy, Type: "chat", ID: fmt.Sprint(i)}
			d.accept(l, sent{UserID: sick, Type: "chat"}, e, e)
			others += 2
			began := time.Now()
			for applied(t, d) < others {
				time.Sleep(10 * time.Millisecond)
				synctest.Wait()
			}
			longest = max(longest, time.Since(began))
			time.Sleep(200 * time.Millisecond)
		}
		if want := 1200 * time.Millisecond; longest > want {
			t.Errorf("the other partitions stood still for %s, want at most %s", longest, want)
		}
		if acc, err := d.agg.Ledger(t.Context()); err != nil || acc.All.Pending != 300 {
			t.Errorf("accounts %+v, %v; want the events of the partition that hangs to be pending", acc.All, err)
		}
		st.release()
		settle()
		if wrong := difference(t, l, st, d); wrong != "" {
			t.Error(wrong)
		}
		d.close()
	})
}

// A daemon stops while a partition hangs, as soon as the store's own timeouts allow.
func TestStopWhilePartitionHangs(t *testing.T) {
	dir := memoryDir(t)
	synctest.Test(t, func(t *testing.T) {
		st, l := newFaulty(2), newLedger()
		d := openDaemon(t, dir, st)
		settle()
		st.hang(1)
		healthy, sick := usersOf(1, 2)
		d.accept(l, sent{UserID: healthy, Type: "chat"}, sent{UserID: sick, Type: "chat"})
		time.Sleep(2 * time.Second)
		began := time.Now()
		d.close()
		if took := time.Since(began); took > hungTimeout {
			t.Errorf("stopped after %s, want at most %s", took, hungTimeout)
		}
		st.release()
		d.open()
		settle()
		if wrong := difference(t, l, st, d); wrong != "" {
			t.Error(wrong)
		}
		d.close()
	})
}

// What was applied is measured once, also where the reply was lost and the store's offset says that it took effect.
func TestLostReplyIsMeasured(t *testing.T) {
	dir := memoryDir(t)
	synctest.Test(t, func(t *testing.T) {
		st, l := newFaulty(1), newLedger()
		d := openDaemon(t, dir, st)
		d.close()
		d.cfg.Metrics = metrics.NewSet()
		d.open()
		settle()
		for range 3 {
			st.fail(0, 1, -1)
			d.accept(l, sent{UserID: "ann", Type: "chat", ID: "same"}, sent{UserID: "ann", Type: "chat", Metadata: map[string]string{"total_tokens": "many"}})
			settle()
		}
		if wrong := difference(t, l, st, d); wrong != "" {
			t.Error(wrong)
		}
		tooMany := make([]sent, store.MaxTypesPerDay+1) // beside the one that is there
		for i := range tooMany {
			tooMany[i] = sent{UserID: "ann", Type: fmt.Sprint(i)}
		}
		st.fail(0, 1, -1)
		d.accept(l, tooMany...)
		settle()
		for name, want := range map[string]uint64{
			"usaged_applied_events_total": 4 + store.MaxTypesPerDay + 1, "usaged_duplicate_events_total": 2, "usaged_bad_values_total": 3,
			"usaged_store_errors_total": 4, `usaged_overflow_total{kind="types"}`: 2,
		} {
			if got := d.cfg.Metrics.GetOrCreateCounter(name).Get(); got != want {
				t.Errorf("%s is %d, want %d", name, got, want)
			}
		}
		d.close()
	})
}

// usersOf returns a user of another partition, and one of this.
func usersOf(partition, partitions int) (other, own string) {
	for i := 0; other == "" || own == ""; i++ {
		user := fmt.Sprintf("u%d", i)
		if store.PartitionOf([]byte(user), partitions) == partition {
			own = user
		} else {
			other = user
		}
	}
	return other, own
}

// applied returns how many events a daemon has applied.
func applied(t *testing.T, d *daemon) uint64 {
	t.Helper()
	acc, err := d.agg.Ledger(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return acc.All.Counted + acc.All.Duplicates
}
