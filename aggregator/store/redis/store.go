// Package redis keeps the rollups in Redis: the store that several replicas of the daemon share. It works with Redis from 6.2
// and Valkey; alone, behind Sentinels or as a cluster.
//
//	usage:meta                                 hash        schema, partitions, epoch
//	usage:{pN}:producers                       set         the ids of all producers
//	usage:{pN}:producer:<id>                   hash        offset, session, takeovers, overflow, total:<series>
//	usage:{p0}:alive:<id>                      string      there while the producer lives
//	usage:{pN}:day:<date>:types                hash        type → count
//	usage:{pN}:day:<date>:type:<type>          sorted set  user → count
//	usage:{pN}:day:<date>:meter:<name>:<dim>   sorted set  user or reference → total
//	usage:{pN}:day:<date>:version              string      a random number for each batch that touched the day
//	usage:{pN}:ids:<day of acceptance>:<n>     hash        digest of (user, id) → milliseconds since the day began
//	usage:{pN}:ids:<day of acceptance>         string      there where any id was accepted on the day
//
// N is the partition. Rollups expire a day after they have left the retention window, ids 72 hours after the end of their
// day, by the clock of Redis; the rest stays. A batch is one Lua script, which either does all that [store.Store] lists
// or nothing, and which compares and sets: a repeated call, a lost reply or a failover that forgets some counts nothing
// twice. How durable an applied batch is depends on Redis; what it loses is applied again from the journal.
//
// Redis need not be there when a store is opened. As long as it isn't, methods return errors, see [Error].
//
// A Store is safe for concurrent use.
package redis

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	client "github.com/redis/go-redis/v9"

	"usaged/aggregator/event"
	"usaged/aggregator/store"
)

// Store is a store.Store in Redis.
type Store struct {
	target    *target
	client    client.UniversalClient
	spaces    []*keyspace
	log       *slog.Logger
	now       func() time.Time
	patience  time.Duration // see Config
	metrics   *metrics
	closeOnce sync.Once
	closeErr  error

	mu sync.Mutex
	// newest is the newest day of acceptance among the claims so far.
	newest event.Day
	// What is known of usage:meta, see contact.
	contacted bool
	checkedAt time.Time
	policyAt  time.Time
	policyOK  bool

	checks sync.WaitGroup // of usage:meta that nobody waits for
}

var _ store.Store = (*Store)(nil)

// defaultPartitions are the partitions of a new store.
var defaultPartitions = map[mode]int{single: 1, sentinel: 1, cluster: 16}

// Check says what is wrong with URL, PasswordFile and TLS of cfg. It connects to nothing.
func Check(cfg Config) error {
	i, err := OpenInspector(cfg)
	if err != nil {
		return err
	}
	return i.Close()
}

// Open returns a store. It fails where cfg is wrong, a file that it names cannot be read, or Redis says that it was made for
// another number of partitions or by another version, which is a store.ErrIncompatible; never because Redis isn't there. It
// waits for its answer for openTimeout at most.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	t, err := parseURL(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("open Redis store: %w", err)
	}
	if cfg.Partitions < 0 || cfg.Partitions > idBuckets {
		return nil, fmt.Errorf("open Redis store: %d partitions", cfg.Partitions)
	}
	if cfg.Retention <= 0 {
		return nil, errors.New("open Redis store: no retention is given")
	}
	if cfg.Kept == nil {
		cfg.Kept = func() int { return cfg.Retention }
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	c, err := newClient(t, cfg)
	if err != nil {
		return nil, fmt.Errorf("open Redis store: %w", err)
	}
	s := &Store{
		target: t, client: c, log: cfg.Log.With("component", "redis"), now: cfg.Now, patience: cfg.patience, metrics: newMetrics(cfg.Metrics),
		policyOK: true, // so that the first warning is given
	}
	if cfg.Partitions == 0 {
		cfg.Partitions = s.findPartitions(ctx)
	}
	for i := range cfg.Partitions {
		s.spaces = append(s.spaces, newKeyspace(i, cfg.Partitions, cfg.Kept))
	}
	if err := s.meet(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open Redis store: %w", err), s.Close())
	}
	return s, nil
}

// Partitions returns the number of partitions.
func (s *Store) Partitions() int { return len(s.spaces) }

// foldCells is how many cells all partitions together take per round.
//
// A cell costs Redis 1.7–2.4 µs in sets of 10,000 users and 5–6.5 µs in sets of 100,000; ZINCRBY for each, flat arguments
// and packed ones differ little. So a call of 2,500 cells blocks it for 5 ms, one of 50,000 for 100–260 ms. But a fold ends
// when one partition has MaxCells, and a fold that ends early saves less: at 500,000 events/s of 10,000 users, folds of 2,500
// cells write more than one cell per event, which is more than Redis can take, and folds of 100,000 write one per seven. So
// the bound is on the whole round, and the number of partitions decides how long one call blocks: under such a load
// 0.2–0.5 s with one partition, and 12–35 ms with 16, which is what a Redis shared with others wants. Below
// 50,000 events/s the folds are far smaller.
const foldCells = 100_000

// MaxCells returns the share of one partition in a round.
func (s *Store) MaxCells() int { return max(foldCells/len(s.spaces), 2_500) }

// Close closes the connections.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		if err := s.client.Close(); err != nil {
			s.closeErr = fmt.Errorf("close Redis store: %w", err)
		}
		s.checks.Wait()
		s.metrics.close()
	})
	return s.closeErr
}
