package redis_test

import (
	"errors"
	"strings"
	"testing"

	vm "github.com/VictoriaMetrics/metrics"

	"usaged/aggregator/store"
	"usaged/aggregator/store/redis"
	"usaged/aggregator/store/redis/redistest"
)

// takeOver lets a session take over the producer p at an offset, and apply nothing.
func takeOver(t *testing.T, s store.Store, session, offset uint64) {
	t.Helper()
	b := &store.Batch{Producer: "p", Session: session, Partition: 0, Prev: offset, Last: offset}
	if out, err := s.Apply(t.Context(), b); err != nil || !out.Applied {
		t.Fatalf("take over with session %d at %d: %+v, %v", session, offset, out, err)
	}
}

// move applies an empty batch that moves the offset.
func move(t *testing.T, s store.Store, session, from, to uint64) {
	t.Helper()
	b := &store.Batch{Producer: "p", Session: session, Partition: 0, Prev: from, Last: to}
	if out, err := s.Apply(t.Context(), b); err != nil || !out.Applied {
		t.Fatalf("move from %d to %d in session %d: %+v, %v", from, to, session, out, err)
	}
}

func wantFencedAt(t *testing.T, s store.Store, session, want uint64) {
	t.Helper()
	out, err := s.Apply(t.Context(), &store.Batch{Producer: "p", Session: session, Partition: 0})
	if !errors.Is(err, store.ErrFenced) || out.Offset != want {
		t.Errorf("session %d: offset %d, %v; want it to be fenced at %d", session, out.Offset, err, want)
	}
}

// A daemon that takes over again and again and applies nothing leaves one entry, and every earlier session still learns
// where it was taken over.
func TestTakeoversWithoutProgressLeaveOneEntry(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	s := openClosed(t, config(t, srv.URL(), 1))
	takeOver(t, s, 10, 0)
	move(t, s, 10, 0, 5)
	for session := uint64(20); session < 220; session++ {
		takeOver(t, s, session, 5)
	}
	move(t, s, 219, 5, 9)
	takeOver(t, s, 300, 9)
	takeOver(t, s, 301, 9)
	if list := srv.Do("HGET", "usage:{p0}:producer:p", "takeovers"); strings.TrimSpace(list) != "10:0 219:5 301:9" {
		t.Errorf("takeovers are recorded as %q", list)
	}
	for session, want := range map[uint64]uint64{9: 0, 10: 5, 20: 5, 218: 5, 219: 9, 300: 9} {
		wantFencedAt(t, s, session, want)
	}
}

// The list of takeovers stays below its limit. A session of which it has forgotten where it ended gets an error and never a
// number.
func TestOldTakeoversAreForgotten(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	cfg := config(t, srv.URL(), 1)
	cfg.Metrics = vm.NewSet()
	s := openClosed(t, cfg)
	const step = uint64(1) << 40 // long numbers fill the list sooner
	longest, n := 0, uint64(8_000)
	for i := range n {
		move(t, s, (i+1)<<20, i*step, (i+1)*step)
		if i%50 == 0 || i > n-50 {
			longest = max(longest, len(srv.Do("HGET", "usage:{p0}:producer:p", "takeovers")))
		}
	}
	if longest < 32<<10 || longest > 65<<10 {
		t.Errorf("the list grew to %d bytes, want at most 64 KiB", longest)
	}
	wantFencedAt(t, s, (n-1)<<20, (n-1)*step)
	wantFencedAt(t, s, (n-500)<<20, (n-500)*step)
	_, err := s.Apply(t.Context(), &store.Batch{Producer: "p", Session: 1 << 20, Partition: 0})
	if errors.Is(err, store.ErrFenced) {
		t.Error("the first session was told an offset that is no longer known")
	}
	wantClass(t, err, redis.OldSession, cfg.Metrics)
}
