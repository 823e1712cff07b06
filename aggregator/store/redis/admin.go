package redis

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	client "github.com/redis/go-redis/v9"

	"usaged/aggregator/meter"
	"usaged/aggregator/store"
)

// ProducerState is a producer with its offset in each partition. Where a partition doesn't know it that is 0.
type ProducerState struct {
	store.Producer
	Offsets []uint64
}

// ErrUnknownProducer says that no partition lists the producer.
var ErrUnknownProducer = errors.New("no partition lists this producer")

// Producers returns the producers in the order of their ids.
func (i *Inspector) Producers(ctx context.Context, m *Meta) ([]ProducerState, error) {
	const doing = "read producers"
	found := make(map[string]*ProducerState)
	for n := range m.Partitions {
		space := newKeyspace(n, m.Partitions, nil)
		ids, err := i.client.SMembers(ctx, space.producers()).Result()
		if err != nil {
			return nil, explained(doing, err)
		}
		for _, id := range ids {
			fields, err := i.client.HGetAll(ctx, space.producer(id)).Result()
			if err != nil {
				return nil, explained(doing, err)
			}
			if len(fields) == 0 {
				continue
			}
			p, err := readProducer(id, fields)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", doing, err)
			}
			if found[id] == nil {
				found[id] = &ProducerState{Producer: store.Producer{ID: id, Totals: make(meter.Totals)}, Offsets: make([]uint64, m.Partitions)}
			}
			found[id].Offsets[n] = p.Offset
			found[id].Merge(p)
		}
	}
	producers := make([]ProducerState, 0, len(found))
	for _, id := range slices.Sorted(maps.Keys(found)) {
		p := found[id]
		p.Offset = slices.Min(p.Offsets)
		producers = append(producers, *p)
	}
	return producers, nil
}

// Idle returns for how long nobody has read or written what Redis holds of a producer. A daemon that runs and reaches Redis looks
// at its own every two seconds; but so does whoever lists them. The error wraps ErrUnknownProducer where there is none. Redis does
// not know it with an LFU eviction policy.
func (i *Inspector) Idle(ctx context.Context, m *Meta, id string) (time.Duration, error) {
	least, known := time.Duration(1<<63-1), false
	for n := range m.Partitions {
		space := newKeyspace(n, m.Partitions, nil)
		listed, err := i.client.SIsMember(ctx, space.producers(), id).Result()
		if err == nil && !listed {
			continue
		}
		var idle time.Duration
		if err == nil {
			idle, err = i.client.ObjectIdleTime(ctx, space.producer(id)).Result()
		}
		if errors.Is(err, client.Nil) {
			continue
		}
		if err != nil {
			return 0, explained("ask when the producer was used", err)
		}
		least, known = min(least, idle), true
	}
	if !known {
		return 0, fmt.Errorf("producer %q: %w", id, ErrUnknownProducer)
	}
	return least, nil
}

// Prune takes a producer off the lists: Producers no longer returns it, nor do the daemons' ledgers. Its offsets, its session
// and its lifetime totals stay in Redis, so that a data directory that comes back, or was in use after all, goes on where it was
// and is listed again.
func (i *Inspector) Prune(ctx context.Context, m *Meta, id string) error {
	for n := range m.Partitions {
		if err := i.client.SRem(ctx, newKeyspace(n, m.Partitions, nil).producers(), id).Err(); err != nil {
			return explained(fmt.Sprintf("prune producer in partition %d", n), err)
		}
	}
	return nil
}
