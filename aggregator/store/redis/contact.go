package redis

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	client "github.com/redis/go-redis/v9"

	"usaged/aggregator/store"
)

// schemaVersion is the version of the key layout. A store with another was made by another usaged.
const schemaVersion = "1"

const (
	// metaInterval is how often usage:meta is looked at again: a FLUSHALL takes it away, and another daemon could then
	// begin with another number of partitions.
	metaInterval = 2 * time.Second
	// policyInterval is how often the eviction policy is.
	policyInterval = time.Minute
	// openTimeout bounds how long Open waits for usage:meta.
	openTimeout = 3 * time.Second
)

//go:embed meta.lua
var metaSource string

var metaScript = client.NewScript(metaSource)

// findPartitions returns the number of partitions that the store has, or the default.
func (s *Store) findPartitions(ctx context.Context) int {
	ctx, cancel := context.WithTimeout(ctx, max(openTimeout, s.patience))
	defer cancel()
	text, err := s.client.HGet(ctx, metaKey, "partitions").Result()
	n, malformed := strconv.Atoi(text)
	switch {
	case err == nil && malformed == nil && n > 0 && n <= idBuckets:
		return n
	case err != nil && !errors.Is(err, client.Nil):
		s.log.Warn("the number of partitions could not be read from Redis, taking the default; set --redis.partitions where it is another",
			"partitions", defaultPartitions[s.target.mode], "err", s.fail("read usage:meta", err))
	}
	return defaultPartitions[s.target.mode]
}

// meet looks at usage:meta for the first time. It fails where that says something else than we expect; what else goes wrong
// is found out again by the first call, and reported there.
func (s *Store) meet(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, max(openTimeout, s.patience))
	defer cancel()
	if err := s.contact(ctx); errors.Is(err, store.ErrIncompatible) {
		return err
	}
	return nil
}

// contact makes sure that usage:meta is there and says what we expect. It asks Redis at the first call, and again when
// the last answer is older than metaInterval.
func (s *Store) contact(ctx context.Context) error {
	s.mu.Lock()
	contacted, now := s.contacted, s.now()
	if contacted && now.Sub(s.checkedAt) < metaInterval {
		s.mu.Unlock()
		return nil
	}
	s.checkedAt = now // other calls go on meanwhile
	s.mu.Unlock()
	if !contacted || s.target.mode != cluster {
		return s.check(ctx, now)
	}
	// The node of usage:meta may be away or hang, and that of the partition not. What is wrong is known to the next call.
	s.checks.Go(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), max(callTimeout, s.patience))
		defer cancel()
		_ = s.check(ctx, now)
	})
	return nil
}

// check looks at usage:meta and, from time to time, at the eviction policy.
func (s *Store) check(ctx context.Context, now time.Time) error {
	err := s.checkMeta(ctx)
	s.mu.Lock()
	switch {
	case err == nil:
		s.contacted = true
	case errors.Is(err, store.ErrIncompatible):
		s.contacted = false
	}
	s.mu.Unlock()
	if err == nil {
		s.checkPolicy(ctx, now)
	}
	return err
}

func (s *Store) checkMeta(ctx context.Context) error {
	meta, err := metaScript.Run(ctx, s.client, []string{metaKey}, schemaVersion, len(s.spaces), newNonce()).StringSlice()
	if err != nil {
		return err
	}
	if len(meta) != 4 {
		return fmt.Errorf("usage:meta script returned %d values", len(meta))
	}
	if meta[3] != "" {
		s.metrics.metaWritten.Inc()
		s.log.Info("usage:meta was missing and has been written", "redis", s.target.String(), "partitions", len(s.spaces))
	}
	if meta[0] != schemaVersion {
		return fmt.Errorf("%w: usage:meta has schema %q, this usaged knows %s; start the usaged that made it, or use another Redis database, which is filled from the journal",
			store.ErrIncompatible, meta[0], schemaVersion)
	}
	if meta[1] != strconv.Itoa(len(s.spaces)) {
		return fmt.Errorf("%w: usage:meta has %q partitions, not %d; restart with --redis.partitions=%s, or use another Redis database, which is filled from the journal",
			store.ErrIncompatible, meta[1], len(s.spaces), meta[1])
	}
	return nil
}

// checkPolicy looks from time to time whether Redis might evict rollups. Its failure is no failure of the caller.
func (s *Store) checkPolicy(ctx context.Context, now time.Time) {
	s.mu.Lock()
	due := s.policyAt.IsZero() || now.Sub(s.policyAt) >= policyInterval
	if due {
		s.policyAt = now
	}
	s.mu.Unlock()
	if !due {
		return
	}
	policies, err := s.policies(ctx)
	if err != nil {
		s.log.Debug("the eviction policy could not be read", "err", err)
		return
	}
	ok := true
	for policy := range policies {
		ok = ok && policy == "noeviction"
	}
	s.metrics.setEviction(ok)
	s.mu.Lock()
	changed := ok != s.policyOK
	s.policyOK = ok
	s.mu.Unlock()
	if changed && !ok {
		s.log.Warn("maxmemory-policy is not noeviction: Redis may delete rollups when its memory is full; run CONFIG SET maxmemory-policy noeviction",
			"redis", s.target.String())
	}
}

// policies returns the eviction policies of all masters.
func (s *Store) policies(ctx context.Context) (map[string]bool, error) {
	var mu sync.Mutex
	found := make(map[string]bool)
	ask := func(ctx context.Context, c *client.Client) error {
		info, err := c.Info(ctx, "memory").Result()
		if err != nil {
			return err
		}
		_, rest, ok := strings.Cut(info, "maxmemory_policy:")
		if !ok {
			return errors.New("INFO says nothing of maxmemory_policy")
		}
		policy, _, _ := strings.Cut(rest, "\r\n")
		mu.Lock()
		defer mu.Unlock()
		found[strings.TrimSpace(policy)] = true
		return nil
	}
	switch c := s.client.(type) {
	case *client.ClusterClient:
		return found, c.ForEachMaster(ctx, ask)
	case *client.Client:
		return found, ask(ctx, c)
	default:
		return nil, fmt.Errorf("unknown client %T", c)
	}
}
