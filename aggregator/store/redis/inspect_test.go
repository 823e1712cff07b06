package redis_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"usaged/aggregator/event"
	"usaged/aggregator/meter"
	"usaged/aggregator/store"
	"usaged/aggregator/store/redis"
	"usaged/aggregator/store/redis/redistest"
)

func inspector(t *testing.T, url string) *redis.Inspector {
	t.Helper()
	in, err := redis.OpenInspector(redis.Config{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := in.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return in
}

// fillForInspection applies a batch of 1,000 users of one type today and yesterday and 100 ids to each partition.
func fillForInspection(t *testing.T, url string, partitions int) {
	t.Helper()
	s := openClosed(t, config(t, url, partitions))
	for p := range partitions {
		b := claimsBatch(0, 100)
		b.Partition = p
		b.Days = map[event.Day]*meter.DayDelta{}
		for back := range event.Day(2) {
			cells := meter.Cells{}
			for n := range 1000 {
				cells[userName(n)] = 1
			}
			b.Days[event.DayOf(time.Now())-back] = &meter.DayDelta{
				Types:   map[string]uint64{"a": 1000},
				Rollups: map[meter.Rollup]meter.Cells{meter.TypeRollup("a"): cells},
			}
		}
		b.Totals = meter.Totals{{Family: meter.FamilyEvents, A: "a"}: 2000}
		mustApply(t, s, b)
	}
}

func mustMeta(t *testing.T, in *redis.Inspector) *redis.Meta {
	t.Helper()
	m, err := in.Meta(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestInspector(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name       string
		partitions int
		masters    int
		start      func(t *testing.T) (url string)
	}{
		{"standalone", 1, 1, func(t *testing.T) string { return redistest.Start(t).URL() }},
		{"sentinel", 1, 1, func(t *testing.T) string { return redistest.StartSentinel(t).URL() }},
		{"cluster", 16, 3, func(t *testing.T) string { return redistest.StartCluster(t, "--cluster-node-timeout", "120000").URL() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			url := tt.start(t)
			in := inspector(t, url)
			for range 2 {
				if m := mustMeta(t, in); m.Found || m.Compatible() {
					t.Fatalf("before any daemon usage:meta is %+v", m)
				}
			}
			fillForInspection(t, url, tt.partitions)
			m := mustMeta(t, in)
			if !m.Found || !m.Compatible() || m.Partitions != tt.partitions || m.Epoch == "" {
				t.Errorf("usage:meta is %+v", m)
			}
			nodes, err := in.Nodes(t.Context(), 5)
			if err != nil || len(nodes) != tt.masters {
				t.Fatalf("Nodes = %+v, %v; want %d", nodes, err, tt.masters)
			}
			for _, n := range nodes {
				if (n.Replicas == 1) == (tt.name == "standalone") || !n.Supported() || !n.Master || n.UsedBytes == 0 || n.Policy != "noeviction" || n.AppendOnly || !n.ConfigKnown || n.Save != "" ||
					len(n.Pings) != 5 || n.ClockErr != nil || n.ClockAhead.Abs() > n.ClockWithin+100*time.Millisecond {
					t.Errorf("node %+v", n)
				}
			}
			wantFootprint(t, in, tt.partitions)
			wantPruned(t, in, m)
		})
	}
}

func wantFootprint(t *testing.T, in *redis.Inspector, partitions int) {
	t.Helper()
	f, err := in.Footprint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Days) != 2 || len(f.IDs) != 1 || len(f.Foreign)+len(f.Misplaced)+len(f.Lasting) > 0 || f.ProducerBytes == 0 {
		t.Fatalf("footprint %+v", f)
	}
	for _, day := range f.Days {
		each := float64(day.PairBytes) / float64(day.Pairs)
		if day.Pairs != uint64(1000*partitions) || each < 50 || each > 250 || day.Keys != uint64(3*partitions) || day.Bytes <= day.PairBytes {
			t.Errorf("%v: %+v, %.1f bytes each", day.Day, day, each)
		}
	}
	ids := uint64(100 * partitions)
	if got := f.IDs[0]; got.IDs != ids || got.Bytes < 50*got.IDs {
		t.Errorf("ids: %+v, want %d", got, ids)
	}
}

func wantPruned(t *testing.T, in *redis.Inspector, m *redis.Meta) {
	t.Helper()
	ctx := t.Context()
	producers, err := in.Producers(ctx, m)
	if err != nil {
		t.Fatal(err)
	}
	offsets := make([]uint64, m.Partitions)
	for i := range offsets {
		offsets[i] = 1
	}
	want := []redis.ProducerState{{Producer: store.Producer{
		ID: "p", Offset: 1, Session: 1, Totals: meter.Totals{{Family: meter.FamilyEvents, A: "a"}: uint64(2000 * m.Partitions)},
	}, Offsets: offsets}}
	if diff := cmp.Diff(want, producers); diff != "" {
		t.Errorf("producers, want (-), got (+):\n%s", diff)
	}
	if idle, err := in.Idle(ctx, m, "p"); err != nil || idle > redistest.Timeout {
		t.Errorf("Idle = %v, %v", idle, err)
	}
	if err := in.Prune(ctx, m, "p"); err != nil {
		t.Fatal(err)
	}
	if producers, err := in.Producers(ctx, m); err != nil || len(producers) > 0 {
		t.Errorf("after pruning: %+v, %v", producers, err)
	}
	if _, err := in.Idle(ctx, m, "p"); !errors.Is(err, redis.ErrUnknownProducer) {
		t.Errorf("Idle of what was pruned: %v", err)
	}
	if f, err := in.Footprint(ctx); err != nil || len(f.Days) != 2 || f.ProducerBytes == 0 {
		t.Errorf("the rollups went with the producer: %+v, %v", f, err)
	}
}

// TestInspectorFindsStrays plants keys that no daemon writes.
func TestInspectorFindsStrays(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	fillForInspection(t, srv.URL(), 1)
	today := event.DayOf(time.Now()).String()
	srv.Do("SET", "usage:other", "1")
	srv.Do("SET", "usage:{p0}:day:"+today+":type:b", "1", "EX", "100")
	srv.Do("PERSIST", "usage:{p0}:day:"+today+":types")
	for i := range 20 {
		srv.Do("SET", fmt.Sprintf("usage:{x}:%d", i), "1")
	}
	f, err := inspector(t, srv.URL()).Footprint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Foreign) != 5 || strings.Join(f.Misplaced, "") != "usage:{p0}:day:"+today+":type:b" ||
		strings.Join(f.Lasting, "") != "usage:{p0}:day:"+today+":types" {
		t.Errorf("foreign %q, misplaced %q, lasting %q", f.Foreign, f.Misplaced, f.Lasting)
	}
}

// TestInspectorACL runs under a user who may use nothing but what the package documents.
func TestInspectorACL(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	fillForInspection(t, srv.URL(), 2)
	srv.Do(append([]string{"ACL", "SETUSER", "usaged", "on", ">pw"}, redis.ACL()...)...)
	url := "redis://usaged:pw@" + srv.Addr
	in := inspector(t, url)
	m := mustMeta(t, in)
	if _, err := in.Nodes(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	_, refused := in.Footprint(t.Context())
	for _, err := range []error{refused, in.Prune(t.Context(), m, "p")} {
		if e, ok := errors.AsType[*redis.Error](err); !ok || e.Class != redis.NoPermission || strings.Contains(err.Error(), "pw") {
			t.Errorf("with the rules of a store alone: %v, want NoPermission", err)
		}
	}
	srv.Do(append([]string{"ACL", "SETUSER", "usaged"}, redis.InspectorACL()...)...)
	if nodes, err := in.Nodes(t.Context(), 1); err != nil || nodes[0].ClockErr != nil || !nodes[0].ConfigKnown {
		t.Errorf("Nodes = %+v, %v", nodes, err)
	}
	wantFootprint(t, in, 2)
	wantPruned(t, in, m)
}

func TestInspectorErrors(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"redis://u:hunter2@h:x", "http://u:hunter2@h", "redis://u:hun/ter2@h"} {
		if _, err := redis.OpenInspector(redis.Config{URL: url}); err == nil || strings.Contains(err.Error(), "hun") {
			t.Errorf("%s: %v", url, err)
		}
	}
	in := inspector(t, "redis://u:hunter2@127.0.0.1:1")
	ctx, cancel := context.WithTimeout(t.Context(), redistest.Timeout)
	defer cancel()
	_, err := in.Nodes(ctx, 1)
	if e, ok := errors.AsType[*redis.Error](err); !ok || e.Class != redis.Unreachable || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("Nodes = %v", err)
	}
	if text := in.String(); text != "redis://127.0.0.1:1" {
		t.Errorf("String = %q", text)
	}
}
