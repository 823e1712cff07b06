package exporter_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"usaged/exporter"
)

// TestReplicas has a store that is away at first, answers, and is away again.
func TestReplicas(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		n, err := 0, errors.New("it is away")
		calls, lived := 0, time.Duration(0)
		says := func(alive int, failure error) {
			mu.Lock()
			defer mu.Unlock()
			n, err = alive, failure
		}
		r := exporter.NewReplicas(exporter.ReplicasConfig{
			Alive: func(_ context.Context, lives time.Duration) (int, error) {
				mu.Lock()
				defer mu.Unlock()
				calls, lived = calls+1, lives
				return n, err
			},
			Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		})
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go r.Run(ctx)
		synctest.Wait()
		if got := testutil.CollectAndCount(r); got != 0 {
			t.Errorf("%d series, want none", got)
		}
		says(3, nil)
		time.Sleep(15 * time.Second)
		synctest.Wait()
		if got := testutil.ToFloat64(r); got != 3 {
			t.Errorf("%v live, want 3", got)
		}
		says(0, errors.New("it is away"))
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := testutil.ToFloat64(r); got != 3 {
			t.Errorf("%v live while the store is away, want 3 as it said last", got)
		}
		mu.Lock()
		defer mu.Unlock()
		if want := 2 + 60*4; calls != want || lived != time.Minute {
			t.Errorf("%d calls for %s, want %d for a minute: four in each", calls, lived, want)
		}
	})
}
