package aggregator_test

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"github.com/google/go-cmp/cmp"

	"usaged/aggregator"
	"usaged/aggregator/event"
)

// sameAsStore compares what the store has with what was acknowledged.
func sameAsStore(t *testing.T, l *ledger, st *faulty) {
	t.Helper()
	today := event.DayOf(time.Now())
	if diff := cmp.Diff(l.counted, counts(t, st, today-1, today)); diff != "" {
		t.Errorf("store and ledger differ (-ledger +store):\n%s", diff)
	}
}

// replaceTree puts a copy of one directory in the place of another.
func replaceTree(t *testing.T, from, to string) {
	t.Helper()
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	copyDir(t, from, to)
}

// The journal, alone or with other files, is lost or put back to an older copy, after all was counted: nothing that is accepted
// from then on is taken for what was, and the accounts say what is missing.
func TestJournalIsLostAlone(t *testing.T) {
	for name, lose := range map[string]func(t *testing.T, old, dir string){
		"lost": func(t *testing.T, _, dir string) { replaceTree(t, t.TempDir(), filepath.Join(dir, "journal")) },
		"lost with the checkpoints": func(t *testing.T, _, dir string) {
			replaceTree(t, t.TempDir(), filepath.Join(dir, "journal"))
			replaceTree(t, t.TempDir(), filepath.Join(dir, "checkpoints"))
		},
		"older": func(t *testing.T, old, dir string) {
			replaceTree(t, filepath.Join(old, "journal"), filepath.Join(dir, "journal"))
		},
		"older with the identity": func(t *testing.T, old, dir string) {
			replaceTree(t, filepath.Join(old, "journal"), filepath.Join(dir, "journal"))
			replaceTree(t, filepath.Join(old, "checkpoints"), filepath.Join(dir, "checkpoints"))
			copyFile(t, filepath.Join(old, "producer.json"), filepath.Join(dir, "producer.json"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, old := filepath.Join(memoryDir(t), "data"), t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				st, l := newFaulty(2), newLedger()
				d := openDaemon(t, dir, st)
				d.accept(l, sent{UserID: "ann", Type: "chat"}, sent{UserID: "bob", Type: "chat"})
				settle()
				d.close()
				copyDir(t, dir, old)
				for range 2 {
					d.open()
					d.accept(l, sent{UserID: "ann", Type: "chat"}, sent{UserID: "cy", Type: "chat"})
					settle()
					d.close()
				}
				lose(t, old, dir)
				for range 3 {
					d.open()
					st.fail(0, 0, 0) // the first restart comes before anything of partition 0 is counted
					d.accept(l, sent{UserID: "ann", Type: "chat"}, sent{UserID: "dee", Type: "sql"})
					d.close()
					st.fail(0, 0, -1)
					d.open()
					d.accept(l, sent{UserID: "dee", Type: "chat"})
					settle()
					d.close()
				}
				sameAsStore(t, l, st)
				d.open()
				settle()
				acc, err := d.agg.Ledger(t.Context())
				if err != nil || acc.All.Pending != 0 || acc.All.Damaged != 0 || acc.All.Accepted != acc.All.Counted || acc.All.Counted != l.accepted {
					t.Errorf("accounts %+v, %v; want %d counted and nothing else", acc.All, err, l.accepted)
				}
				d.close()
			})
		})
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, 0o640); err != nil {
		t.Fatal(err)
	}
}

// Events that were not counted are lost with the journal: they are damaged, and are not forgotten.
func TestLostEventsAreDamaged(t *testing.T) {
	dir := memoryDir(t)
	synctest.Test(t, func(t *testing.T) {
		st, l, lost := newFaulty(1), newLedger(), newLedger()
		d := openDaemon(t, dir, st)
		d.accept(l, sent{UserID: "ann", Type: "chat"})
		settle()
		st.fail(0, 0, 0)
		d.accept(lost, sent{UserID: "bob", Type: "chat"}, sent{UserID: "bob", Type: "chat"})
		d.close()
		d.open() // which notes how far the journal is
		d.close()
		replaceTree(t, t.TempDir(), filepath.Join(dir, "journal"))
		st.fail(0, 0, -1)
		d.cfg.Metrics, d.cfg.Log = metrics.NewSet(), slog.New(slog.NewTextHandler(t.Output(), nil))
		d.open()
		d.accept(l, sent{UserID: "cy", Type: "chat"})
		settle()
		acc, err := d.agg.Ledger(t.Context())
		if a := acc.All; err != nil || a.Accepted != 4 || a.Counted != 2 || a.Damaged != 2 || a.Pending != 0 {
			t.Errorf("accounts %+v, %v; want 4 accepted, 2 counted, 2 damaged", a, err)
		}
		if n := d.cfg.Metrics.GetOrCreateCounter("usaged_identity_alarms_total").Get(); n == 0 {
			t.Error("no alarm was raised")
		}
		sameAsStore(t, l, st)
		d.close()
	})
}

// One of the two files of an identity is lost or damaged: the other has it.
func TestIdentityIsMended(t *testing.T) {
	for _, name := range []string{"producer.json", "journal/identity.json"} {
		for _, how := range []string{"lost", "damaged", "older"} {
			t.Run(fmt.Sprintf("%s is %s", name, how), func(t *testing.T) {
				dir, old := memoryDir(t), t.TempDir()
				path := filepath.Join(dir, name)
				synctest.Test(t, func(t *testing.T) {
					st, l := newFaulty(1), newLedger()
					d := openDaemon(t, dir, st)
					d.accept(l, sent{UserID: "ann", Type: "chat"})
					settle()
					d.close()
					copyFile(t, path, filepath.Join(old, "file"))
					d.open()
					d.accept(l, sent{UserID: "ann", Type: "chat"})
					settle()
					d.close()
					switch how {
					case "lost":
						if err := os.Remove(path); err != nil {
							t.Fatal(err)
						}
					case "older":
						copyFile(t, filepath.Join(old, "file"), path)
					default:
						data, err := os.ReadFile(path)
						if err != nil {
							t.Fatal(err)
						}
						data[len(data)/2] ^= 1
						if err := os.WriteFile(path, data, 0o640); err != nil {
							t.Fatal(err)
						}
					}
					for range 2 {
						d.open()
						d.accept(l, sent{UserID: "bob", Type: "chat"})
						settle()
						d.close()
					}
					sameAsStore(t, l, st)
				})
			})
		}
	}
}

// Without both files nobody knows under which ids the journal's events were counted.
func TestIdentityIsLost(t *testing.T) {
	dir := memoryDir(t)
	synctest.Test(t, func(t *testing.T) {
		d := openDaemon(t, dir, newFaulty(1))
		d.accept(newLedger(), sent{UserID: "ann", Type: "chat"})
		settle()
		d.close()
		for _, name := range []string{"producer.json", "journal/identity.json"} {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := aggregator.Open(d.cfg); err == nil || !strings.Contains(err.Error(), "producer.json is missing") {
			t.Errorf("Open = %v, want an error that says what is missing", err)
		}
	})
}

// The labels are lost after some values got room that would not get it again: their copy has them.
func TestLabelsAreMended(t *testing.T) {
	dir := memoryDir(t)
	synctest.Test(t, func(t *testing.T) {
		st, l := newFaulty(1), newLedger()
		d := openDaemon(t, dir, st)
		d.close()
		d.cfg.Labels.EventTypes = 6
		d.open()
		d.accept(l, sent{UserID: "ann", Type: "zulu"})
		settle()
		d.accept(l, sent{UserID: "ann", Type: "alfa"}, sent{UserID: "ann", Type: "bravo"}, sent{UserID: "ann", Type: "charlie"})
		settle()
		before, _ := d.agg.Totals()
		d.close()
		if err := os.Remove(filepath.Join(dir, "labels.json")); err != nil {
			t.Fatal(err)
		}
		d.open()
		settle()
		after, _ := d.agg.Totals()
		if diff := cmp.Diff(before, after); diff != "" {
			t.Errorf("totals differ (-before +after):\n%s", diff)
		}
		d.close()
	})
}
