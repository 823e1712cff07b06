package redis_test

import (
	"fmt"
	"testing"
	"time"

	"usaged/aggregator/store/redis"
	"usaged/aggregator/store/redis/redistest"
)

// TestAlive counts producers that live: oneself, and others that have counted something and whose time is not over.
func TestAlive(t *testing.T) {
	t.Parallel()
	for _, partitions := range []int{1, 3} {
		t.Run(fmt.Sprintf("partitions=%d", partitions), func(t *testing.T) {
			t.Parallel()
			s := openClosed(t, config(t, redistest.Start(t).URL(), partitions))
			alive := func(producer string, lives time.Duration, want int) {
				t.Helper()
				if n, err := s.Alive(t.Context(), producer, lives); err != nil || n != want {
					t.Errorf("%s: %d live, %v; want %d", producer, n, err, want)
				}
			}
			alive("a", time.Minute, 1)
			alive("b", time.Minute, 1) // a has counted nothing
			for _, producer := range []string{"a", "b"} {
				for i := range partitions {
					b := batch(0, 1)
					b.Producer, b.Partition, b.Claims = producer, i, nil
					mustApply(t, s, b)
				}
			}
			alive("b", time.Minute, 2)
			alive("a", time.Minute, 2)
			alive("c", time.Minute, 3)
			alive("b", time.Millisecond, 2)
			until := time.Now().Add(time.Minute)
			for n := 0; n != 1 && time.Now().Before(until); { // the millisecond is over soon
				var err error
				if n, err = s.Alive(t.Context(), "a", time.Minute); err != nil {
					t.Fatal(err)
				}
			}
			alive("a", time.Minute, 1)
		})
	}
}

// TestAliveIsNoForeignKey has the inspector know the key.
func TestAliveIsNoForeignKey(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	s := openClosed(t, config(t, srv.URL(), 1))
	mustApply(t, s, batch(0, 1))
	if _, err := s.Alive(t.Context(), "p", time.Minute); err != nil {
		t.Fatal(err)
	}
	in, err := redis.OpenInspector(redis.Config{URL: srv.URL()})
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	found, err := in.Footprint(t.Context())
	if err != nil || len(found.Foreign)+len(found.Misplaced)+len(found.Lasting) > 0 {
		t.Errorf("%+v, %v; want no key that is wrong", found, err)
	}
}
