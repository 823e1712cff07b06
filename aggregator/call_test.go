package aggregator_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

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
