package redis_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"

	"usaged/aggregator/store"
	"usaged/aggregator/store/redis"
	"usaged/aggregator/store/redis/redistest"
	"usaged/aggregator/store/storetest"
)

// full says that the heavy variants are wanted as well.
var full = os.Getenv("USAGE_TEST_FULL") != ""

// config is of a store that waits for Redis as long as a busy machine takes.
func config(tb testing.TB, url string, partitions int) redis.Config {
	return redis.Config{
		URL: url, Partitions: partitions, Retention: 90,
		Log: slog.New(slog.NewTextHandler(tb.Output(), nil)),
	}.Patiently(redistest.Timeout)
}

func open(tb testing.TB, cfg redis.Config) *redis.Store {
	tb.Helper()
	s, err := redis.Open(context.Background(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// openClosed is open for a test that doesn't close the store.
func openClosed(tb testing.TB, cfg redis.Config) *redis.Store {
	tb.Helper()
	s := open(tb, cfg)
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Errorf("Close: %v", err)
		}
	})
	return s
}

// databases hands out the databases of one server, so that tests run at the same time.
type databases struct {
	srv  *redistest.Server
	mu   sync.Mutex
	next int
	of   map[store.Store]string
}

const databaseCount = 4096

func newDatabases(tb testing.TB) *databases {
	return &databases{srv: redistest.Start(tb, "--databases", fmt.Sprint(databaseCount)), of: make(map[store.Store]string)}
}

func (d *databases) open(t *testing.T, partitions int) store.Store {
	d.mu.Lock()
	d.next++
	url := fmt.Sprintf("%s/%d", d.srv.URL(), d.next%databaseCount)
	d.mu.Unlock()
	return d.openURL(t, url, partitions)
}

func (d *databases) openURL(t *testing.T, url string, partitions int) store.Store {
	s := open(t, config(t, url, partitions))
	d.mu.Lock()
	d.of[s] = url
	d.mu.Unlock()
	return s
}

func (d *databases) reopen(t *testing.T, s store.Store) store.Store {
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	d.mu.Lock()
	url := d.of[s]
	d.mu.Unlock()
	return d.openURL(t, url, s.Partitions())
}

func TestConformance(t *testing.T) {
	t.Parallel()
	d := newDatabases(t)
	storetest.Run(t, d.open, storetest.Reopen(d.reopen), storetest.SelfExpiring(), storetest.Parallel())
}

func BenchmarkStore(b *testing.B) {
	srv := redistest.Start(b)
	storetest.Bench(b, func(b *testing.B, partitions int) store.Store {
		srv.Do("FLUSHALL")
		return open(b, config(b, srv.URL(), partitions))
	})
}
