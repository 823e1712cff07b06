package storetest_test

import (
	"testing"

	"usaged/aggregator/store"
	"usaged/aggregator/store/storetest"
)

func TestMemory(t *testing.T) {
	open := func(_ *testing.T, partitions int) store.Store { return storetest.NewMemory(partitions) }
	reopen := func(_ *testing.T, s store.Store) store.Store { return s }
	storetest.Run(t, open, storetest.Reopen(reopen), storetest.Parallel())
}
