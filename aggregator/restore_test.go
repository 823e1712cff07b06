package aggregator_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"usaged/aggregator"
	"usaged/aggregator/event"
	"usaged/aggregator/meter"
	"usaged/aggregator/retention"
)

// keeper is a daemon whose retention is changed.
type keeper struct {
	*daemon
	dir string
}

// openKeeper opens a daemon that keeps 30 days.
func openKeeper(t testing.TB, dir string, st *faulty) *keeper {
	k := &keeper{dir: dir, daemon: &daemon{t: t, decoder: event.NewDecoder(), cfg: aggregator.Config{
		Dir: dir, Store: st, Meters: meter.Builtin(), SegmentBytes: 64 << 10,
	}}}
	k.open(30)
	return k
}

// open opens it with so many days.
func (k *keeper) open(days int) {
	k.t.Helper()
	_, err := os.Stat(filepath.Join(k.dir, "journal"))
	k.cfg.Retention = days
	k.cfg.Policy = retention.Open(retention.Config{
		Path: filepath.Join(k.dir, "retention.json"), Days: days, Most: 1000, New: err != nil, Now: time.Now,
	})
	k.daemon.open()
}

// restart opens it again with so many days, and has those beyond deleted.
func (k *keeper) restart(days int) {
	k.t.Helper()
	k.close()
	k.open(days)
	if _, err := k.agg.ApplyRetention(k.t.Context()); err != nil {
		k.t.Fatal(err)
	}
}

func (k *keeper) restored() *aggregator.Restored {
	k.t.Helper()
	r, err := k.agg.Retention(k.t.Context())
	if err != nil {
		k.t.Fatal(err)
	}
	return r.Restored
}

// TestRaisedRetention lowers and raises the retention between whatever else happens: events that are dated back, kills, replies that
// are lost, a store that is emptied. At the end every event counts once, on its day.
func TestRaisedRetention(t *testing.T) {
	base := memoryDir(t)
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		dir := filepath.Join(base, fmt.Sprint(n))
		steps := rapid.SliceOfN(rapid.SampledFrom([]string{
			"accept", "accept", "accept", "lower", "raise", "restart", "settle", "minute", "forget", "fail", "lose a reply", "break a partition", "heal",
		}), 5, 40).Draw(rt, "steps")
		lates := rapid.SliceOfN(rapid.IntRange(0, 25), 40, 40).Draw(rt, "days dated back")
		failure := ""
		synctest.Test(t, func(t *testing.T) {
			st, l, days := newFaulty(3), newLedger(), 30
			k := openKeeper(t, dir, st)
			for i, step := range steps {
				switch step {
				case "accept":
					var batch []sent
					for j := range 20 {
						late := time.Duration(min(lates[(i+j)%len(lates)], days-1)) * 24 * time.Hour
						batch = append(batch, sent{ID: fmt.Sprint(i%3, j), UserID: fmt.Sprint("u", j%7), Type: fmt.Sprint("t", j%2), Late: late})
					}
					k.accept(l, batch...)
				case "lower":
					days = 5
					k.restart(days)
				case "raise":
					days = 30
					k.restart(days)
				case "restart":
					k.restart(days)
				case "settle":
					settle()
				case "minute":
					time.Sleep(2 * time.Minute)
				case "forget":
					st.forget()
				case "fail":
					st.fail(2, 0, -1)
				case "lose a reply":
					st.fail(0, 2, -1)
				case "break a partition":
					st.fail(0, 0, 1)
				case "heal":
					st.fail(0, 0, -1)
				}
			}
			st.fail(0, 0, -1)
			if days == 5 { // so that something is deleted before it is raised
				time.Sleep(2 * time.Minute)
			}
			k.restart(30)
			time.Sleep(2 * time.Minute)
			settle()
			failure = difference(t, l, st, k.daemon)
			if r := k.restored(); failure == "" && r != nil && (r.Phase != aggregator.RebuildDone || r.Done != r.Events || len(r.Incomplete) > 0) {
				failure = fmt.Sprintf("the restore is not done: %+v", r)
			}
			k.close()
		})
		if failure != "" {
			rt.Fatalf("%s", failure)
		}
	})
}

// TestRestoredMeters has days restored that a meter had counted which was put in force later than their events were accepted, and one
// that was put in force between two of them.
func TestRestoredMeters(t *testing.T) {
	dir := memoryDir(t)
	synctest.Test(t, func(t *testing.T) {
		st, l := newFaulty(2), newLedger()
		rooms, projects := roomsAndProjects[0], roomsAndProjects[2]
		k := openKeeper(t, dir, st)
		accept := func() {
			for _, late := range []time.Duration{0, 20 * 24 * time.Hour} {
				k.accept(l, sent{UserID: "ann", Type: "chat", Late: late, Metadata: map[string]string{"room": "a", "project": "p", "minutes": minutesText(1)}})
			}
		}
		accept()
		k.cfg.Meters = append(meter.Builtin(), rooms, projects)
		k.restart(30)
		accept()
		if err := k.agg.RebuildMeter(rooms.Name); err != nil {
			t.Fatal(err)
		}
		settle()
		wants := func(when string) {
			t.Helper()
			for _, m := range []struct {
				meter.Meter
				want map[string]uint64
			}{
				{rooms, map[string]uint64{"ref a": 4}},
				{projects, map[string]uint64{"ref p": 2, "user ann": 2}},
			} {
				got := maps.Collect(func(yield func(string, uint64) bool) {
					for key, n := range stored(t, st, &m.Meter) {
						if !yield(strings.Replace(key, "reference ", "ref ", 1), n) {
							return
						}
					}
				})
				if diff := cmp.Diff(m.want, got); diff != "" {
					t.Errorf("%s: meter %s (-want +got):\n%s", when, m.Name, diff)
				}
			}
		}
		wants("before")
		k.restart(5)
		time.Sleep(2 * time.Minute)
		k.restart(30)
		settle()
		wants("restored")
		if diff := difference(t, l, st, k.daemon); diff != "" {
			t.Error(diff)
		}
		if err := k.agg.RebuildMeter(projects.Name); err != nil {
			t.Fatal(err)
		}
		settle()
		if got := stored(t, st, &projects); got["user ann"] != 4 {
			t.Errorf("rebuilt after the restore: %v, want all four events", got)
		}
		k.close()
	})
}

// TestRestoredDaysThatTheJournalLacks has the events of a day leave the journal in part: the day is restored as far as it can be, and
// said to be incomplete.
func TestRestoredDaysThatTheJournalLacks(t *testing.T) {
	dir := memoryDir(t)
	synctest.Test(t, func(t *testing.T) {
		st, l := newFaulty(1), newLedger()
		k := openKeeper(t, dir, st)
		k.accept(l, sent{UserID: "ann", Type: "chat"})
		first := event.DayOf(time.Now())
		for range 9 {
			time.Sleep(24 * time.Hour)
		}
		settle()
		k.accept(l, sent{UserID: "ann", Type: "chat", Late: 9 * 24 * time.Hour}, sent{UserID: "ann", Type: "chat", Late: 2 * 24 * time.Hour})
		settle()
		k.restart(5)
		time.Sleep(3 * time.Minute)
		k.restart(30)
		settle()
		r := k.restored()
		if r == nil || r.Phase != aggregator.RebuildDone || len(r.Incomplete) == 0 || r.Incomplete[len(r.Incomplete)-1] < first {
			t.Fatalf("restored: %+v, want the days up to the one on which the journal begins to be incomplete", r)
		}
		types, err := st.Types(t.Context(), []event.Day{first})
		if err != nil || types[0]["chat"] != 1 {
			t.Errorf("%v, %v; want the event that is in the journal", types, err)
		}
		k.close()
	})
}
