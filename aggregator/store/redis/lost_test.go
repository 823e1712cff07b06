package redis_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	vm "github.com/VictoriaMetrics/metrics"

	"usaged/aggregator/event"
	"usaged/aggregator/meter"
	"usaged/aggregator/store"
	"usaged/aggregator/store/redis"
	"usaged/aggregator/store/redis/redistest"
)

// TestLostProducer deletes the key of a producer alone. It is not taken for one that has counted nothing.
func TestLostProducer(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	cfg := config(t, srv.URL(), 2)
	cfg.Metrics = vm.NewSet()
	s := openClosed(t, cfg)
	mustApply(t, s, batch(0, 5))
	second := batch(0, 5)
	second.Producer, second.Claims = "q", nil
	mustApply(t, s, second)
	srv.Do("DEL", "usage:{p0}:producer:p")
	before := content(srv)
	for _, prev := range []uint64{0, 5} {
		_, err := s.Apply(t.Context(), batch(prev, 10))
		wantClass(t, err, redis.LostProducer, cfg.Metrics)
		if !strings.Contains(err.Error(), "usage:{p0}:producer:p is gone") {
			t.Errorf("error %q doesn't name the key", err)
		}
	}
	_, err := s.Producer(t.Context(), 0, "p")
	wantClass(t, err, redis.LostProducer, cfg.Metrics)
	if after := content(srv); !maps.Equal(before, after) {
		t.Errorf("keys changed: %q before, %q after", before, after)
	}
	if p, err := s.Producer(t.Context(), 1, "p"); err != nil || p.Offset != 0 {
		t.Errorf("in the other partition: %+v, %v", p, err)
	}
	if _, err := s.Producers(t.Context()); err != nil {
		t.Errorf("Producers: %v", err)
	}
	// What the error says to do.
	srv.Do(append([]string{"DEL"}, strings.Fields(srv.Do("KEYS", "usage:{p0}:*"))...)...)
	if p, err := s.Producer(t.Context(), 0, "p"); err != nil || p.Offset != 0 {
		t.Errorf("after all keys were deleted: %+v, %v", p, err)
	}
	mustApply(t, s, batch(0, 10))
}

// TestPrunedProducer goes on under an id that was pruned: the store knows how far it was, and lists it again.
func TestPrunedProducer(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	s := openClosed(t, config(t, srv.URL(), 2))
	mustApply(t, s, batch(0, 5))
	in := inspector(t, srv.URL())
	m := mustMeta(t, in)
	for range 2 {
		if err := in.Prune(t.Context(), m, "p"); err != nil {
			t.Fatal(err)
		}
	}
	if all, err := s.Producers(t.Context()); err != nil || len(all) > 0 {
		t.Errorf("after pruning the store lists %+v, %v", all, err)
	}
	series := meter.Series{Family: meter.FamilyEvents, A: "t"}
	if p, err := s.Producer(t.Context(), 0, "p"); err != nil || p.Offset != 5 || p.Session != 1 || p.Totals[series] != 5 {
		t.Errorf("after pruning it is %+v, %v", p, err)
	}
	if out, err := s.Apply(t.Context(), batch(0, 5)); err != nil || out.Applied || out.Offset != 5 {
		t.Errorf("from the start: %+v, %v, want the offset", out, err)
	}
	mustApply(t, s, batch(5, 6))
	all, err := s.Producers(t.Context())
	if err != nil || !slices.ContainsFunc(all, func(p store.Producer) bool { return p.ID == "p" && p.Totals[series] == 6 }) {
		t.Errorf("it is not listed again: %+v, %v", all, err)
	}
	types, err := s.Types(t.Context(), []event.Day{event.DayOf(time.Now())})
	if err != nil || types[0]["t"] != 2 {
		t.Errorf("types %v, %v, want 2 events", types, err)
	}
}
