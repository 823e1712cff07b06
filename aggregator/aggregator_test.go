package aggregator_test

import (
	"flag"
	"fmt"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"usaged/aggregator/event"
	"usaged/aggregator/store"
)

// The property tests run 20 cases each, or 300 where USAGE_TEST_FULL is set; -rapid.checks overrides both.
func TestMain(m *testing.M) {
	checks := "20"
	if os.Getenv("USAGE_TEST_FULL") != "" {
		checks = "300"
	}
	if err := flag.Set("rapid.checks", checks); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// memoryDir returns a temporary directory, in memory where the system has one: the properties are about logic, and the
// journal's own tests about disks.
func memoryDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "usaged-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// step is one thing that happens in a property test.
type step struct {
	Kind   string
	Events []sent
	Daemon int
	N      int
}

func genStep(daemons, partitions int) *rapid.Generator[step] {
	e := rapid.Custom(func(rt *rapid.T) sent {
		s := sent{
			UserID: rapid.SampledFrom([]string{"ann", "bob", "cy", "dee", "ü{p0}"}).Draw(rt, "user"),
			Type:   rapid.SampledFrom([]string{"sql_generation", "chat", "sql_execution"}).Draw(rt, "type"),
		}
		if rapid.Bool().Draw(rt, "has id") {
			s.ID = rapid.SampledFrom([]string{"1", "2", "3", "4", "5", "6", "7", "8"}).Draw(rt, "id")
		}
		genDetails(rt, &s)
		return s
	})
	return rapid.Custom(func(rt *rapid.T) step {
		return step{
			Kind: rapid.SampledFrom([]string{
				"accept", "accept", "accept", "accept", "settle", "blink", "restart", "fail before", "fail after", "break", "hang", "heal", "save", "restore", "forget", "hours",
				"fail reads", "fail all reads",
			}).Draw(rt, "kind"),
			Events: rapid.SliceOfN(e, 1, 6).Draw(rt, "events"),
			Daemon: rapid.IntRange(0, daemons-1).Draw(rt, "daemon"),
			N:      rapid.IntRange(0, partitions-1).Draw(rt, "n"),
		}
	})
}

// play runs steps in a bubble of fake time and returns what is wrong in the end.
func play(t *testing.T, partitions, daemons int, steps []step) (wrong string) {
	dirs := make([]string, daemons)
	for i := range dirs {
		dirs[i] = memoryDir(t)
	}
	synctest.Test(t, func(t *testing.T) {
		st := newFaulty(partitions)
		l := newLedger()
		reads := &readFaults{}
		var ds []*daemon
		for _, dir := range dirs {
			d := openDaemon(t, dir, st)
			d.close()
			d.cfg.FailReads(reads.next)
			if d.cfg.Meters = projectMeters(); daemons == 1 {
				d.cfg.Labels = fewLabels
			}
			d.open()
			ds = append(ds, d)
		}
		hours := 0
		for _, s := range steps {
			d := ds[s.Daemon]
			switch s.Kind {
			case "accept":
				d.accept(l, s.Events...)
			case "settle":
				settle()
			case "blink":
				time.Sleep(60 * time.Millisecond)
			case "restart":
				reads.fail(0) // a daemon refuses to start where its journal cannot be read
				d.close()
				d.open()
			case "fail reads":
				reads.fail(s.N%7 + 1)
			case "fail all reads":
				reads.fail(1 << 30)
			case "fail before":
				st.fail(s.N%3+1, 0, -1)
			case "fail after":
				st.fail(0, s.N%3+1, -1)
			case "break":
				st.fail(0, 0, s.N)
			case "hang":
				st.hang(s.N)
			case "heal":
				st.fail(0, 0, -1)
				st.release()
				reads.fail(0)
			case "save":
				st.save()
			case "restore":
				if daemons == 1 { // see TestReplicas
					st.restore()
				}
			case "forget":
				st.forget()
			case "hours":
				if hours++; hours <= 2 { // ids are checked up to 48 hours after their acceptance
					time.Sleep(7 * time.Hour)
				}
			}
		}
		st.fail(0, 0, -1)
		st.release()
		reads.fail(0)
		settle()
		wrong = difference(t, l, st, ds...)
		for _, d := range ds {
			d.close()
		}
	})
	return wrong
}

func TestEveryEventIsCountedOnceWhateverHappens(t *testing.T) {
	for _, partitions := range []int{1, 16} {
		t.Run(fmt.Sprintf("partitions=%d", partitions), func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				steps := rapid.SliceOfN(genStep(1, partitions), 1, 25).Draw(rt, "steps")
				if wrong := play(t, partitions, 1, steps); wrong != "" {
					rt.Fatal(wrong)
				}
			})
		})
	}
}

// Two data directories count into one store, and the same ids come to both. Snapshots are not restored here: one
// that is older than a flip of who counts an id would take both copies for duplicates.
func TestReplicasShareIDs(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		steps := rapid.SliceOfN(genStep(2, 4), 1, 25).Draw(rt, "steps")
		if wrong := play(t, 4, 2, steps); wrong != "" {
			rt.Fatal(wrong)
		}
	})
}

func TestDuplicateWindowEndsAfterADay(t *testing.T) {
	dir := memoryDir(t)
	synctest.Test(t, func(t *testing.T) {
		st, l := newFaulty(1), newLedger()
		d := openDaemon(t, dir, st)
		e := sent{ID: "x", UserID: "ann", Type: "chat"}
		d.accept(l, e, e)
		time.Sleep(24*time.Hour - time.Millisecond)
		d.accept(l, e)
		time.Sleep(time.Millisecond)
		d.accept(l, e)
		settle()
		if wrong := difference(t, l, st, d); wrong != "" {
			t.Error(wrong)
		}
		if want := uint64(2); l.types["chat"] != want {
			t.Errorf("the ledger itself counts %d, want %d", l.types["chat"], want)
		}
		d.close()
	})
}

func TestRebuildAfterSegmentsAreRetired(t *testing.T) {
	for _, partitions := range []int{1, 16} {
		t.Run(fmt.Sprintf("partitions=%d", partitions), func(t *testing.T) {
			dir := memoryDir(t)
			synctest.Test(t, func(t *testing.T) {
				st, l := newFaulty(partitions), newLedger()
				d := openDaemon(t, dir, st)
				d.cfg.Retention, d.cfg.Meters, d.cfg.Labels = 5, projectMeters(), fewLabels
				skip := d.skipTime()
				d.close()
				d.open()
				for day := range 20 {
					switch day {
					case 12: // the checkpoint from which everything is rebuilt in the end is made from the journal: a partition is behind
						st.fail(0, 0, store.PartitionOf([]byte("ann"), partitions))
					case 13:
						st.fail(0, 0, -1)
					}
					for i := range 3 {
						d.accept(l, sent{UserID: fmt.Sprintf("u%d", (day+i)%7), Type: "chat", Source: fmt.Sprint(day % 4), Late: time.Duration(day%3) * time.Hour,
							Metadata: map[string]string{"outcome": "failure", "model": fmt.Sprint(i), "total_tokens": "9", "project": fmt.Sprint(day)}},
							sent{ID: fmt.Sprint(day), UserID: "ann", Type: "sql_generation", Metadata: map[string]string{"policy_filters": "a,b,c"}})
						settle()
					}
					if day%6 == 5 {
						d.close() // a checkpoint that was not made while running is made from the journal
						d.open()
					}
					skip(24 * time.Hour)
					settle() // midnight
				}
				today := event.DayOf(d.now())
				before := counts(t, st, today-4, today)
				totals, _ := d.agg.Totals()
				st.forget()
				settle()
				if got := counts(t, st, today-4, today); fmt.Sprint(got) != fmt.Sprint(before) {
					t.Errorf("rebuilt\n%v, was\n%v", got, before)
				}
				if got, _ := d.agg.Totals(); fmt.Sprint(got) != fmt.Sprint(totals) {
					t.Errorf("rebuilt totals %v, were %v", got, totals)
				}
				acc, err := d.agg.Ledger(t.Context())
				if err != nil || acc.All.Accepted != 20*6 || acc.All.Counted != 20*4 || acc.All.Duplicates != 20*2 || acc.All.Pending != 0 {
					t.Errorf("accounts %+v, %v", acc.All, err)
				}
				d.close()
				// And from nothing in a new process.
				st.forget()
				d.open()
				settle()
				if got, _ := d.agg.Totals(); fmt.Sprint(got) != fmt.Sprint(totals) {
					t.Errorf("rebuilt totals after a restart %v, were %v", got, totals)
				}
				d.close()
			})
		})
	}
}
