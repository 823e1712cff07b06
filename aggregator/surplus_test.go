package aggregator_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/VictoriaMetrics/metrics"

	"usaged/aggregator"
	"usaged/aggregator/store"
)

// A data directory was restored from a backup, and what the store has beyond the backup is more than what is lost later: the loss
// leaves the ledger unbalanced all the same.
func TestLossBesideWhatACopyHasCounted(t *testing.T) {
	for name, lost := range map[string]uint64{"nothing is lost": 0, "events are lost": 3} {
		t.Run(name, func(t *testing.T) {
			base := memoryDir(t)
			dir, old := filepath.Join(base, "data"), filepath.Join(base, "old")
			synctest.Test(t, func(t *testing.T) {
				st, l := newFaulty(1), newLedger()
				d := openDaemon(t, dir, st)
				ann := sent{UserID: "ann", Type: "chat"}
				d.accept(l, ann, ann)
				settle()
				d.close()
				copyDir(t, dir, old)
				d.open()
				d.accept(l, ann, ann, ann, ann, ann)
				settle()
				d.close()

				restored := openDaemon(t, old, st)
				settle()
				st.fail(0, 0, 0)
				restored.accept(l, ann, ann, ann)
				acc, err := restored.agg.Ledger(t.Context())
				if a := acc.All; err != nil || a.Accepted != 10 || a.Counted != 7 || a.Pending != 3 {
					t.Fatalf("accounts %+v, %v; want 7 counted, 3 pending", a, err)
				}
				restored.close()
				st.fail(0, 0, -1)
				forgeProgress(t, st, acc.Producers[1], lost)
				restored.cfg.Metrics = metrics.NewSet()
				restored.open()
				settle()
				acc, err = restored.agg.Ledger(t.Context())
				if a := acc.All; err != nil || a.Accepted != 10 || a.Counted != 10-lost || a.Pending+a.Damaged != 0 {
					t.Errorf("accounts %+v, %v; want 10 accepted, %d counted", a, err, 10-lost)
				}
				var text strings.Builder
				restored.cfg.Metrics.WritePrometheus(&text)
				if want := fmt.Sprintf("usaged_ledger_unbalanced %d\n", min(lost, 1)); !strings.Contains(text.String(), want) {
					t.Errorf("the metrics lack %q", want)
				}
				restored.close()
			})
		})
	}
}

// forgeProgress has the store say that events of a producer are counted that are not.
func forgeProgress(t *testing.T, st *faulty, id string, events uint64) {
	t.Helper()
	known, err := st.Producer(t.Context(), 0, id)
	if err != nil {
		t.Fatal(err)
	}
	out, err := st.Apply(t.Context(), &store.Batch{
		Producer: id, Session: known.Session, Prev: known.Offset, Last: known.Offset + events,
	})
	if err != nil || !out.Applied {
		t.Fatalf("forge progress: %+v, %v", out, err)
	}
}

// Where another process has taken an id over at another event in each partition, the span that ends there is weighed by the
// journal's events on either side.
func TestLossBesideATakeoverInTheMiddle(t *testing.T) {
	base := memoryDir(t)
	dir := filepath.Join(base, "data")
	synctest.Test(t, func(t *testing.T) {
		st, l := newFaulty(2), newLedger()
		both := []sent{{UserID: "ann", Type: "chat"}, {UserID: "bob", Type: "chat"}, {UserID: "cy", Type: "chat"}, {UserID: "dee", Type: "chat"}}
		d := openDaemon(t, dir, st)
		d.accept(l, both...)
		settle()
		st.fail(0, 0, 1) // partition 1 stays where it is
		d.accept(l, both...)
		settle()
		takeOver(t, st, d.agg)
		st.fail(0, 0, -1)
		d.accept(l, both...)
		d.close()
		d.open()
		settle()
		if diff := difference(t, l, st, d); diff != "" {
			t.Error(diff)
		}
		d.close()
	})
}

// takeOver has another process take over the last id of a directory, in all partitions.
func takeOver(t *testing.T, st *faulty, agg *aggregator.Aggregator) {
	t.Helper()
	acc, err := agg.Ledger(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	id := acc.Producers[len(acc.Producers)-1]
	for i := range st.Partitions() {
		known, err := st.Producer(t.Context(), i, id)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := st.current().Apply(t.Context(), &store.Batch{
			Producer: id, Session: known.Session + 1<<30, Partition: i, Prev: known.Offset, Last: known.Offset,
		}); err != nil {
			t.Fatal(err)
		}
	}
}
