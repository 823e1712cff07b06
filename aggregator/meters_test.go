package aggregator_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"usaged/aggregator"
	"usaged/aggregator/durable"
	"usaged/aggregator/event"
	"usaged/aggregator/meter"
	"usaged/aggregator/rollup"
	"usaged/aggregator/store"
)

// roomsAndProjects are meters of an operator. Two have one name: they are never in force together.
var roomsAndProjects = []meter.Meter{
	{Name: "rooms", Reference: "room", By: "reference"},
	{Name: "rooms", Reference: "room", Events: []string{"chat"}, By: "reference"},
	{Name: "projects", Reference: "project", Value: "minutes"},
	{Name: "generations", Events: []string{"sql_generation"}},
}

// naiveMeters is what somebody would count who notes for each event by which meters it counts.
type naiveMeters struct {
	inForce []meter.Meter
	added   map[string]int // by key: the event at which the meter in force was put in force
	events  []noted
	latest  map[string]time.Time
}

// noted is an event that was accepted and is no duplicate.
type noted struct {
	sent
	by map[string]bool // the meters' keys
}

func newNaiveMeters() *naiveMeters {
	return &naiveMeters{inForce: meter.Builtin(), added: map[string]int{}, latest: map[string]time.Time{}}
}

func (n *naiveMeters) set(meters []meter.Meter) {
	for i := range meters {
		key := meters[i].Key()
		if !slices.ContainsFunc(n.inForce, func(m meter.Meter) bool { return m.Key() == key }) {
			n.added[key] = len(n.events)
		}
	}
	n.inForce = meters
}

func (n *naiveMeters) accept(events []sent, now time.Time) {
	for _, e := range events {
		if key := e.UserID + "\x00" + e.Type + "\x00" + e.ID; e.ID != "" {
			if at, ok := n.latest[key]; ok && now.Sub(at) < store.DuplicateWindow {
				continue
			}
			n.latest[key] = now
		}
		by := map[string]bool{}
		for i := range n.inForce {
			by[n.inForce[i].Key()] = true
		}
		n.events = append(n.events, noted{e, by})
	}
}

func (n *naiveMeters) rebuild(name string) {
	for i := range n.inForce {
		if key := n.inForce[i].Key(); n.inForce[i].Name == name {
			for _, e := range n.events[:n.added[key]] {
				e.by[key] = true
			}
		}
	}
}

// totals counts a meter by reference and, where it sums values, by user.
func (n *naiveMeters) totals(m *meter.Meter) map[string]uint64 {
	totals := map[string]uint64{}
	for _, e := range n.events {
		value := uint64(1)
		if m.Value != "" {
			if _, has := e.Metadata[m.Value]; !has {
				continue
			}
			value = uint64(len(e.Metadata[m.Value])) // a number of ones, see genMetered
		}
		if !e.by[m.Key()] || len(m.Events) > 0 && !slices.Contains(m.Events, e.Type) {
			continue
		}
		if ref := e.Metadata[m.Reference]; ref != "" {
			totals["ref "+ref] += value
		}
		if m.Value != "" {
			totals["user "+e.UserID] += value
		}
	}
	return totals
}

// stored reads a meter's own rollups.
func stored(t testing.TB, st store.Store, m *meter.Meter) map[string]uint64 {
	t.Helper()
	today := event.DayOf(time.Now())
	days := rollup.LastDays(today, 40).Days()
	totals := map[string]uint64{}
	for _, dim := range []meter.Dim{meter.ByUser, meter.ByReference} {
		err := st.Sum(t.Context(), meter.MeterRollup(m.Key(), dim), days, func(key []byte, n uint64) {
			if m.Value != "" {
				n = minutesOf(n)
			}
			totals[string(dim)+" "+string(key)] += n
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return totals
}

// Minutes are powers of 1000, so that the sums tell how many events there were of each length.
func minutesText(n int) string { return "1" + strings.Repeat("000", n-1) }

// minutesOf returns the sum of lengths of texts.
func minutesOf(sum uint64) (lengths uint64) {
	for n := uint64(1); sum > 0; n += 3 {
		lengths, sum = lengths+n*(sum%1000), sum/1000
	}
	return lengths
}

func genMetered(partitions int) *rapid.Generator[meterStep] {
	e := rapid.Custom(func(rt *rapid.T) sent {
		s := sent{
			UserID:   rapid.SampledFrom([]string{"ann", "bob", "cy", "dee"}).Draw(rt, "user"),
			Type:     rapid.SampledFrom([]string{"sql_generation", "chat"}).Draw(rt, "type"),
			Metadata: map[string]string{},
		}
		if room := rapid.SampledFrom([]string{"", "blue", "red"}).Draw(rt, "room"); room != "" {
			s.Metadata["room"] = room
		}
		if rapid.Bool().Draw(rt, "in a project") {
			s.Metadata["project"] = rapid.SampledFrom([]string{"p1", "p2"}).Draw(rt, "project")
		}
		if n := rapid.IntRange(0, 3).Draw(rt, "minutes"); n > 0 {
			s.Metadata["minutes"] = minutesText(n)
		}
		if rapid.Bool().Draw(rt, "has id") {
			s.ID = rapid.SampledFrom([]string{"1", "2", "3", "4"}).Draw(rt, "id")
		}
		return s
	})
	return rapid.Custom(func(rt *rapid.T) meterStep {
		return meterStep{
			Kind: rapid.SampledFrom([]string{
				"accept", "accept", "accept", "settle", "blink", "restart", "restart changed", "fail before", "fail after", "break", "heal",
				"save", "restore", "forget", "reload", "reload", "rebuild", "rebuild",
			}).Draw(rt, "kind"),
			Events: rapid.SliceOfN(e, 1, 5).Draw(rt, "events"),
			Meters: rapid.SliceOfNDistinct(rapid.IntRange(0, len(roomsAndProjects)-1), 0, 3,
				func(i int) string { return roomsAndProjects[i].Name }).Draw(rt, "meters"),
			N: rapid.IntRange(0, partitions-1).Draw(rt, "n"),
		}
	})
}

// meterStep is one thing that happens to a daemon whose meters change.
type meterStep struct {
	Kind   string
	Events []sent
	Meters []int // indices in roomsAndProjects
	N      int
}

func chosen(indices []int) []meter.Meter {
	meters := meter.Builtin()
	for _, i := range indices {
		meters = append(meters, roomsAndProjects[i])
	}
	return meters
}

func (d *daemon) setMeters(n *naiveMeters, meters []meter.Meter) {
	d.t.Helper()
	if err := d.agg.SetMeters(meters); err != nil {
		d.t.Fatalf("set meters: %v", err)
	}
	d.cfg.Meters = meters
	n.set(meters)
}

// playMeters runs steps in a bubble of fake time and returns what is wrong in the end.
func playMeters(t *testing.T, partitions int, steps []meterStep) (wrong string) {
	dir := memoryDir(t)
	synctest.Test(t, func(t *testing.T) {
		st, l, n := newFaulty(partitions), newLedger(), newNaiveMeters()
		d := openDaemon(t, dir, st)
		for _, s := range steps {
			switch s.Kind {
			case "accept":
				n.accept(s.Events, time.Now())
				d.accept(l, s.Events...)
			case "settle":
				settle()
			case "blink":
				time.Sleep(60 * time.Millisecond)
			case "restart":
				d.close()
				d.open()
			case "restart changed":
				d.close()
				d.cfg.Meters = chosen(s.Meters)
				n.set(d.cfg.Meters)
				d.open()
			case "reload":
				d.setMeters(n, chosen(s.Meters))
			case "rebuild":
				for _, i := range s.Meters {
					name := roomsAndProjects[i].Name
					if err := d.agg.RebuildMeter(name); err != nil && !errors.Is(err, aggregator.ErrNoMeter) {
						t.Fatalf("rebuild %s: %v", name, err)
					}
					n.rebuild(name)
				}
			case "fail before":
				st.fail(s.N%3+1, 0, -1)
			case "fail after":
				st.fail(0, s.N%3+1, -1)
			case "break":
				st.fail(0, 0, s.N)
			case "heal":
				st.fail(0, 0, -1)
			case "save":
				st.save()
			case "restore":
				st.restore()
			case "forget":
				st.forget()
			}
		}
		st.fail(0, 0, -1)
		// What was removed comes back at last, so that its sums can be compared too.
		for _, indices := range [][]int{{0, 2, 3}, {1, 2, 3}} {
			d.setMeters(n, chosen(indices))
			settle()
			for _, i := range indices {
				m := &roomsAndProjects[i]
				if diff := cmp.Diff(n.totals(m), stored(t, st, m)); diff != "" && wrong == "" {
					wrong = fmt.Sprintf("%s: (-naive +stored)\n%s", m.Key(), diff)
				}
			}
		}
		if wrong == "" {
			wrong = difference(t, l, st, d)
		}
		if acc, err := d.agg.Ledger(t.Context()); err != nil || len(acc.Others) > 0 {
			wrong += fmt.Sprintf("\nother producers: %v, %v", acc.Others, err)
		}
		d.close()
	})
	return wrong
}

// The operator changes the meters, and has them count what came before, while events arrive, the daemon is restarted and the
// store fails and forgets.
func TestEveryMeterCountsWhatItShould(t *testing.T) {
	for _, partitions := range []int{1, 4} {
		t.Run(fmt.Sprintf("partitions=%d", partitions), func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				steps := rapid.SliceOfN(genMetered(partitions), 1, 25).Draw(rt, "steps")
				if wrong := playMeters(t, partitions, steps); wrong != "" {
					rt.Fatal(wrong)
				}
			})
		})
	}
}

// stateOf returns what a daemon says of a meter.
func (d *daemon) stateOf(name string) aggregator.MeterState {
	d.t.Helper()
	states := d.agg.MeterStates()
	i := slices.IndexFunc(states, func(m aggregator.MeterState) bool { return m.Name == name })
	if i < 0 {
		d.t.Fatalf("there is no meter %s", name)
	}
	return states[i]
}

func room(user, room string) sent {
	return sent{UserID: user, Type: "chat", Metadata: map[string]string{"room": room}}
}

func TestARebuildSaysHowFarItIs(t *testing.T) {
	dir := memoryDir(t)
	synctest.Test(t, func(t *testing.T) {
		st, l, n := newFaulty(1), newLedger(), newNaiveMeters()
		d := openDaemon(t, dir, st)
		for range 100 {
			d.accept(l, room("ann", "blue"))
		}
		settle()
		d.setMeters(n, chosen([]int{0, 3}))
		added := time.Now()
		d.accept(l, room("ann", "red"))
		settle()
		if m := d.stateOf("queries"); !m.Complete || !m.Since.IsZero() || m.Rebuild != nil {
			t.Errorf("a built-in meter: %+v", m)
		}
		if m := d.stateOf("generations"); !m.Complete {
			t.Errorf("a meter without rollups of its own: %+v", m)
		}
		if m := d.stateOf("rooms"); m.Complete || !m.Since.Equal(added) || m.Rebuild != nil {
			t.Errorf("a new meter: %+v", m)
		}
		st.fail(0, 0, 0)
		for range 2 { // asking again is harmless
			if err := d.agg.RebuildMeter("rooms"); err != nil {
				t.Fatal(err)
			}
		}
		settle()
		if m := d.stateOf("rooms"); m.Complete || m.Rebuild == nil || m.Rebuild.Phase == aggregator.RebuildDone || m.Rebuild.Events != 100 {
			t.Errorf("while the store is away: %+v", m)
		}
		st.fail(0, 0, -1)
		settle()
		want := aggregator.RebuildState{Phase: aggregator.RebuildDone, Events: 100, Done: 100}
		if m := d.stateOf("rooms"); !m.Complete || m.Rebuild == nil || *m.Rebuild != want {
			t.Errorf("when it is done: %+v", m)
		}
		if diff := cmp.Diff(map[string]uint64{"ref blue": 100, "ref red": 1}, stored(t, st, &roomsAndProjects[0])); diff != "" {
			t.Error(diff)
		}
		if err := d.agg.RebuildMeter("nothing"); !errors.Is(err, aggregator.ErrNoMeter) {
			t.Errorf("an unknown meter: %v", err)
		}
		d.close()
	})
}

// Only what is in the journal can be rebuilt, and of that the days that the store keeps: those of the retention and three more.
func TestARebuildBeginsWithTheJournal(t *testing.T) {
	dir := memoryDir(t)
	synctest.Test(t, func(t *testing.T) {
		st, l, n := newFaulty(4), newLedger(), newNaiveMeters()
		d := openDaemon(t, dir, st)
		d.close()
		d.cfg.Retention = 3
		d.open()
		for range 10 {
			for i := range 4 {
				d.accept(l, room(fmt.Sprintf("u%d", i), "blue"))
			}
			settle()
			d.close()
			time.Sleep(24 * time.Hour)
			d.open()
			settle()
		}
		d.accept(l, room("u1", "blue"))
		settle()
		d.setMeters(n, chosen([]int{0}))
		if err := d.agg.RebuildMeter("rooms"); err != nil {
			t.Fatal(err)
		}
		settle()
		if m := d.stateOf("rooms"); m.Rebuild == nil || m.Rebuild.Events >= 10*4 {
			t.Errorf("%+v: the whole journal is there", m.Rebuild)
		}
		want := map[string]uint64{"ref blue": 5*4 + 1}
		if diff := cmp.Diff(want, stored(t, st, &roomsAndProjects[0])); diff != "" {
			t.Error(diff)
		}
		st.forget()
		settle()
		if diff := cmp.Diff(want, stored(t, st, &roomsAndProjects[0])); diff != "" {
			t.Errorf("after the store was lost: %s", diff)
		}
		d.close()
	})
}

// Both copies of a data directory rebuild a meter: what they share counts once, and what each has taken since counts too.
func TestCopiesRebuildWhatTheyShareOnce(t *testing.T) {
	base := memoryDir(t)
	a, b := filepath.Join(base, "a"), filepath.Join(base, "b")
	synctest.Test(t, func(t *testing.T) {
		st, l, n := newFaulty(4), newLedger(), newNaiveMeters()
		da := openDaemon(t, a, st)
		da.accept(l, room("ann", "blue"), room("bob", "blue"), room("cy", "blue"), room("dee", "blue"))
		settle()
		da.close()
		copyDir(t, a, b)
		da.open()
		db := openDaemon(t, b, st)
		settle()
		da.accept(l, room("ann", "red"), room("bob", "red"))
		db.accept(l, room("cy", "green"), room("dee", "green"))
		settle()
		for _, d := range []*daemon{da, db} { // one of them was fenced
			d.close()
			d.open()
			settle()
			d.accept(l, room("ann", "white"))
			settle()
		}
		for _, d := range []*daemon{da, db} {
			d.setMeters(n, chosen([]int{0}))
			if err := d.agg.RebuildMeter("rooms"); err != nil {
				t.Fatal(err)
			}
		}
		settle()
		want := map[string]uint64{"ref blue": 4, "ref red": 2, "ref green": 2, "ref white": 2}
		if diff := cmp.Diff(want, stored(t, st, &roomsAndProjects[0])); diff != "" {
			t.Error(diff)
		}
		da.close()
		db.close()
	})
}

// The meters change again and again under load. A meter counts at least what was sent while it was in force and at most what was
// accepted before it was gone; whatever that is, counting again gives the same, and a rebuild adds what is missing.
func TestMetersChangeUnderLoad(t *testing.T) {
	dir := memoryDir(t)
	synctest.Test(t, func(t *testing.T) {
		st, n := newFaulty(4), newNaiveMeters()
		d := openDaemon(t, dir, st)
		var began, accepted atomic.Int64
		var senders sync.WaitGroup
		for s := range 4 {
			senders.Go(func() {
				decoder := event.NewDecoder()
				for i := range 400 {
					body := fmt.Sprintf(`{"event_type":"chat","user_id":"u%d","metadata":{"room":"blue"}}`, (s+i)%9)
					began.Add(1)
					batch, err := decoder.Decode([]byte(body), event.JSON, event.Origin{
						Token: "t", User: "t", AcceptedAt: time.Now().Truncate(time.Millisecond), Oldest: d.agg.Oldest(),
					})
					if err == nil {
						err = d.agg.Accept(batch)
					}
					if err != nil {
						t.Error(err)
					}
					accepted.Add(1)
					time.Sleep(time.Duration(s+1) * time.Millisecond)
				}
			})
		}
		m := &roomsAndProjects[0]
		var least, most int64
		for range 20 {
			time.Sleep(17 * time.Millisecond)
			most -= accepted.Load()
			d.setMeters(n, chosen([]int{0}))
			least -= began.Load()
			time.Sleep(23 * time.Millisecond)
			least += accepted.Load()
			d.setMeters(n, chosen(nil))
			most += began.Load()
		}
		senders.Wait()
		d.setMeters(n, chosen([]int{0}))
		settle()
		t.Logf("%d to %d of 1600", least, most)
		first := stored(t, st, m)
		if got := int64(first["ref blue"]); got < least || got > most || least < 1 || most >= 1600 {
			t.Errorf("%d events are counted, want %d to %d", got, least, most)
		}
		d.close()
		st.forget()
		d.open()
		settle()
		if diff := cmp.Diff(first, stored(t, st, m)); diff != "" {
			t.Errorf("counted again: %s", diff)
		}
		if err := d.agg.RebuildMeter("rooms"); err != nil {
			t.Fatal(err)
		}
		settle()
		if diff := cmp.Diff(map[string]uint64{"ref blue": 1600}, stored(t, st, m)); diff != "" {
			t.Errorf("rebuilt: %s", diff)
		}
		d.close()
	})
}

func TestTheHistoryOfMetersIsKept(t *testing.T) {
	dir := memoryDir(t)
	synctest.Test(t, func(t *testing.T) {
		st, l, n := newFaulty(1), newLedger(), newNaiveMeters()
		d := openDaemon(t, dir, st)
		d.accept(l, room("ann", "blue"))
		settle()
		d.setMeters(n, chosen([]int{0}))
		d.setMeters(n, chosen([]int{1})) // no event in between
		d.setMeters(n, chosen([]int{1})) // the same
		d.accept(l, room("ann", "red"))
		d.close()
		d.open()
		d.close()
		var file struct {
			Epochs []struct {
				From   uint64        `json:"from"`
				Meters []meter.Meter `json:"meters"`
			} `json:"epochs"`
		}
		if _, err := (durable.Format{Version: 2}).LoadJSON(filepath.Join(dir, "meters.json"), &file); err != nil {
			t.Fatal(err)
		}
		if len(file.Epochs) != 2 || file.Epochs[0].From != 1 || file.Epochs[1].From != 2 {
			t.Fatalf("meters.json: %+v", file)
		}
		if diff := cmp.Diff(chosen([]int{1}), file.Epochs[1].Meters); diff != "" {
			t.Error(diff)
		}
		for content, want := range map[string]string{
			"{": "meters.json is damaged", `{"version":1}`: "meters.json is damaged", `{"version":2,"epochs":[{}]}`: "meters.json is damaged", `{"version":9,"epochs":[{}]}`: "meters.json has version 9",
		} {
			if err := os.WriteFile(filepath.Join(dir, "meters.json"), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
			if _, err := aggregator.Open(d.cfg); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("Open with %s = %v, want %s", content, err, want)
			}
		}
	})
}
