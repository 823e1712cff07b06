package redis_test

import (
	"testing"

	"usaged/aggregator/store"
	"usaged/aggregator/store/redis/redistest"
	"usaged/aggregator/store/storetest"
)

func TestConformanceOnCluster(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t, "--cluster-node-timeout", "120000") // a large batch holds a node up; nothing is to be replaced here
	storetest.Run(t, func(t *testing.T, partitions int) store.Store {
		c.Flush()
		return open(t, config(t, c.URL(), partitions))
	}, storetest.SelfExpiring(), storetest.Reopen(func(t *testing.T, s store.Store) store.Store {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		return open(t, config(t, c.URL(), s.Partitions()))
	}))
}
