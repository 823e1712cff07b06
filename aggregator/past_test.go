package aggregator_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"usaged/aggregator"
	"usaged/aggregator/event"
)

// lived is an event that was counted, by the label of its type.
type lived struct {
	label string
	at    time.Time
	late  bool
}

// wantPast counts events the naive way: each interval looks at each event.
func wantPast(cfg aggregator.PastConfig, events []lived) (types map[string]*aggregator.PastEvents, late []uint32) {
	types = map[string]*aggregator.PastEvents{}
	n := int(cfg.Until.Sub(cfg.Start) / cfg.Step)
	late = make([]uint32, n)
	for _, e := range events {
		t := types[e.label]
		if t == nil {
			t = &aggregator.PastEvents{First: e.at, Counts: make([]uint32, n)}
			types[e.label] = t
		}
		if e.at.Before(t.First) {
			t.First = e.at
		}
		for i := range n {
			begin := cfg.Start.Add(time.Duration(i) * cfg.Step)
			if e.at.After(begin) && !e.at.After(begin.Add(cfg.Step)) {
				t.Counts[i]++
				if e.late {
					late[i]++
				}
			}
		}
	}
	return types, late
}

// TestPast imports events of three days, some on the edges of intervals and some twice, and compares with a naive count.
func TestPast(t *testing.T) {
	dir := memoryDir(t)
	synctest.Test(t, func(t *testing.T) {
		st, l := newFaulty(3), newLedger()
		d := openDaemon(t, dir, st)
		d.cfg.Labels.EventTypes = 6 // of which four are the known ones
		skip := d.skipTime()
		d.close()
		d.open()
		rnd := rand.New(rand.NewPCG(1, 2))
		label := map[string]string{"chat": "chat", "sql_execution": "sql_execution", "mail": "mail", "third": event.Other, "fourth": event.Other}
		d.accept(l, sent{UserID: "u", Type: "chat"}, sent{UserID: "u", Type: "mail"}) // which get the room
		settle()
		began := d.now().Truncate(time.Millisecond).Add(-30 * time.Second)
		events := []lived{{"chat", began, false}, {"mail", began, false}}
		step := 5 * time.Minute
		for batch := range 60 {
			now := d.now().Truncate(time.Millisecond)
			var list []sent
			for i := range 20 {
				e := sent{UserID: fmt.Sprint("user ", rnd.IntN(7)), Type: []string{"chat", "sql_execution", "mail", "third", "fourth"}[rnd.IntN(5)]}
				e.Late = time.Duration(rnd.Int64N(int64(72 * time.Hour)))
				if rnd.IntN(4) == 0 { // on an edge, or beside it
					e.Late = now.Sub(now.Add(-e.Late).Truncate(step)) + time.Duration(rnd.IntN(3)-1)
				}
				if rnd.IntN(3) == 0 {
					e.ID = fmt.Sprint(batch, "-", i)
				}
				list = append(list, e)
			}
			for again := range 2 {
				d.accept(l, list...)
				for _, e := range list {
					if again == 0 || e.ID == "" {
						events = append(events, lived{label[e.Type], now.Add(-e.Late), e.Late > time.Hour})
					}
				}
				if again == 0 && rnd.IntN(2) == 0 {
					continue // both in one fold
				}
				synctest.Wait()
			}
			skip(time.Duration(rnd.IntN(60)) * time.Minute)
		}
		until := d.now().UTC().Truncate(step)
		cfg := aggregator.PastConfig{Start: until.Add(-48 * time.Hour), Until: until, Step: step}
		check := func(what string) {
			t.Helper()
			past, err := d.agg.Past(t.Context(), cfg)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			types, late := wantPast(cfg, events)
			if diff := cmp.Diff(types, past.Types); diff != "" {
				t.Errorf("%s: types (-want +got):\n%s", what, diff)
			}
			if diff := cmp.Diff(late, past.Late); diff != "" {
				t.Errorf("%s: late (-want +got):\n%s", what, diff)
			}
			if past.Events != uint64(len(events)) || !past.From.IsZero() {
				t.Errorf("%s: %d events from %v, want %d from the beginning", what, past.Events, past.From, len(events))
			}
		}
		check("live")
		wantLate := uint64(0)
		for _, e := range events {
			if e.late {
				wantLate++
			}
		}
		if n, known := d.agg.LateEvents(); n != wantLate || !known {
			t.Errorf("%d late events, known %v; want %d", n, known, wantLate)
		}
		d.close()
		d.open()
		check("after a restart")
		st.forget()
		settle()
		check("after the store was lost")
		d.close()
	})
}

// TestPastOfWhatIsLeft asks when segments have been retired.
func TestPastOfWhatIsLeft(t *testing.T) {
	dir := memoryDir(t)
	synctest.Test(t, func(t *testing.T) {
		st, l := newFaulty(1), newLedger()
		d := openDaemon(t, dir, st)
		d.cfg.Retention = 2
		skip := d.skipTime()
		d.close()
		d.open()
		for range 12 {
			d.accept(l, sent{UserID: "ann", Type: "chat"})
			skip(24 * time.Hour)
			settle()
		}
		until := d.now().UTC().Truncate(time.Hour)
		past, err := d.agg.Past(t.Context(), aggregator.PastConfig{Start: until.Add(-20 * 24 * time.Hour), Until: until, Step: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		sum := uint32(0)
		for _, n := range past.Types["chat"].Counts {
			sum += n
		}
		if past.Events == 0 || past.Events >= 12 || uint64(sum) != past.Events {
			t.Errorf("%d events, %d of them in time; want those that are left of 12", past.Events, sum)
		}
		if !past.From.Equal(past.Types["chat"].First) {
			t.Errorf("it is known from %v on, the first event was at %v", past.From, past.Types["chat"].First)
		}
		d.close()
	})
}

// TestPastWaitsForTheStore asks while nothing is applied.
func TestPastWaitsForTheStore(t *testing.T) {
	dir := memoryDir(t)
	synctest.Test(t, func(t *testing.T) {
		st, l := newFaulty(1), newLedger()
		d := openDaemon(t, dir, st)
		settle()
		st.fail(1<<30, 0, -1)
		d.accept(l, sent{ID: "1", UserID: "ann", Type: "chat"}, sent{ID: "1", UserID: "ann", Type: "chat"})
		until := d.now().UTC().Add(time.Hour).Truncate(time.Hour)
		cfg := aggregator.PastConfig{Start: until.Add(-24 * time.Hour), Until: until, Step: time.Hour}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := d.agg.Past(ctx, cfg); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("without the store the error is %v", err)
		}
		time.AfterFunc(time.Minute, func() { st.fail(0, 0, -1) })
		past, err := d.agg.Past(t.Context(), cfg)
		if err != nil || past.Events != 1 {
			t.Errorf("%v, %v; want one event, and not its duplicate", past, err)
		}
		d.close()
	})
}

// BenchmarkPast reads a journal of 300,000 events of 20 types over 30 days.
func BenchmarkPast(b *testing.B) {
	const batches, size = 300, 1000
	l := newLedger()
	d := openDaemon(b, b.TempDir(), newFaulty(1))
	d.close()
	d.cfg.SegmentBytes = 0
	d.open()
	defer d.close()
	rnd := rand.New(rand.NewPCG(5, 6))
	for range batches {
		list := make([]sent, size)
		for i := range list {
			list[i] = sent{
				UserID: fmt.Sprint("user ", rnd.IntN(500)), Type: fmt.Sprint("type ", rnd.IntN(20)),
				Late: time.Duration(rnd.Int64N(int64(29 * 24 * time.Hour))), Metadata: map[string]string{"model": "small-1", "outcome": "success"},
			}
		}
		d.accept(l, list...)
	}
	until := time.Now().UTC().Truncate(5 * time.Minute)
	cfg := aggregator.PastConfig{Start: until.Add(-32 * 24 * time.Hour), Until: until, Step: 5 * time.Minute}
	if _, err := d.agg.Past(b.Context(), cfg); err != nil { // which waits until all is applied
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		past, err := d.agg.Past(b.Context(), cfg)
		if err != nil || past.Events != batches*size {
			b.Fatal(past.Events, err)
		}
	}
	b.ReportMetric(float64(batches*size*b.N)/b.Elapsed().Seconds(), "events/s")
}
