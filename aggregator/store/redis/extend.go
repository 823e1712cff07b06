package redis

import (
	"context"
	_ "embed"
	"maps"
	"slices"

	client "github.com/redis/go-redis/v9"

	"usaged/aggregator/event"
	"usaged/aggregator/meter"
	"usaged/aggregator/store"
)

//go:embed extend.lua
var extendSource string

var extendScript = client.NewScript(extendSource)

var _ store.Extender = (*Store)(nil)

// Extend gives the days the expiry of the present retention, see store.Extender. Each call of Redis is about one day of one
// partition, and takes no time that others would notice.
func (s *Store) Extend(ctx context.Context, days []event.Day, rollups []meter.Rollup) (removed int, err error) {
	versions, err := s.Versions(ctx, days)
	if err != nil {
		return 0, err
	}
	for i, day := range days {
		if versions[i] == "" {
			continue
		}
		for _, space := range s.spaces {
			n, err := s.extend(ctx, space, day, rollups)
			if err != nil {
				return removed, s.fail("extend the expiry of a day", err)
			}
			removed += n
		}
	}
	return removed, nil
}

// extend does so for one day of one partition.
func (s *Store) extend(ctx context.Context, space *keyspace, day event.Day, rollups []meter.Rollup) (removed int, err error) {
	counts, err := s.client.HGetAll(ctx, space.types(day)).Result()
	if err != nil {
		return 0, err
	}
	keys, args := []string{space.version(day), space.types(day)}, []any{space.dayExpiry(day), newNonce()}
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		keys = append(keys, space.rollup(day, meter.TypeRollup(name)))
		args = append(args, name)
	}
	if _, ok := counts[event.Other]; !ok { // which may have users without a count of its own
		keys = append(keys, space.rollup(day, meter.TypeRollup(event.Other)))
	}
	for _, r := range rollups {
		keys = append(keys, space.rollup(day, r))
	}
	return extendScript.Run(ctx, s.client, keys, args...).Int()
}
