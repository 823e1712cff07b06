package redis

import (
	"context"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"

	client "github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"usaged/aggregator/event"
	"usaged/aggregator/meter"
	"usaged/aggregator/store"
)

// Producer returns what a partition knows of a producer. It waits for a reply as long as Apply does.
func (s *Store) Producer(ctx context.Context, partition int, id string) (store.Producer, error) {
	const doing = "read producer"
	ctx, cancel := context.WithTimeout(ctx, max(callTimeout, s.patience))
	defer cancel()
	if err := s.contact(ctx); err != nil {
		return store.Producer{}, s.fail(doing, err)
	}
	fields, err := s.producer(ctx, s.spaces[partition], id)
	if err != nil {
		return store.Producer{}, s.fail(doing, err)
	}
	p, err := readProducer(id, fields)
	if err != nil {
		return store.Producer{}, fmt.Errorf("%s: %w", doing, err)
	}
	return p, nil
}

// producer reads the hash of a producer. It returns an error where only that is missing.
func (s *Store) producer(ctx context.Context, space *keyspace, id string) (map[string]string, error) {
	fields, err := s.client.HGetAll(ctx, space.producer(id)).Result()
	if err != nil || fields["offset"] != "" {
		return fields, err
	}
	counted, err := s.client.SIsMember(ctx, space.producers(), id).Result()
	if err == nil && counted {
		err = fmt.Errorf("%s %s is gone, but not the counts that it stands for", lostProducer, space.producer(id))
	}
	return fields, err
}

func readProducer(id string, fields map[string]string) (store.Producer, error) {
	p := store.Producer{ID: id, Totals: make(meter.Totals)}
	for field, value := range fields {
		var series meter.Series
		text, isTotal := strings.CutPrefix(field, totalPrefix)
		switch {
		case isTotal:
			if err := series.UnmarshalText([]byte(text)); err != nil {
				return store.Producer{}, err
			}
		case field != "offset" && field != "session":
			continue
		}
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil {
			return store.Producer{}, fmt.Errorf("field %s is not a number", field)
		}
		switch {
		case isTotal:
			p.Totals[series] = n
		case field == "offset":
			p.Offset = n
		default:
			p.Session = n
		}
	}
	return p, nil
}

// Producers returns all producers.
func (s *Store) Producers(ctx context.Context) ([]store.Producer, error) {
	const doing = "read producers"
	if err := s.contact(ctx); err != nil {
		return nil, s.fail(doing, err)
	}
	found := make(map[string]*store.Producer)
	known := make(map[string]int) // partitions that know it
	for _, space := range s.spaces {
		ids, err := s.client.SMembers(ctx, space.producers()).Result()
		if err != nil {
			return nil, s.fail(doing, err)
		}
		hashes, err := s.hashes(ctx, ids, space.producer)
		if err != nil {
			return nil, s.fail(doing, err)
		}
		for i, id := range ids {
			if len(hashes[i]) == 0 {
				continue // it was pruned meanwhile
			}
			p, err := readProducer(id, hashes[i])
			if err != nil {
				return nil, fmt.Errorf("%s: %w", doing, err)
			}
			known[id]++
			if found[id] == nil {
				found[id] = &p
				continue
			}
			found[id].Merge(p)
		}
	}
	producers := make([]store.Producer, 0, len(found))
	for _, id := range slices.Sorted(maps.Keys(found)) {
		p := found[id]
		if known[id] < len(s.spaces) {
			p.Offset = 0 // a partition that doesn't know it has applied nothing
		}
		producers = append(producers, *p)
	}
	return producers, nil
}

// hashes reads the hash of each name in one round trip.
func (s *Store) hashes(ctx context.Context, names []string, key func(string) string) ([]map[string]string, error) {
	cmds := make([]*client.MapStringStringCmd, len(names))
	_, err := s.client.Pipelined(ctx, func(pipe client.Pipeliner) error {
		for i, name := range names {
			cmds[i] = pipe.HGetAll(ctx, key(name))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	hashes := make([]map[string]string, len(names))
	for i, cmd := range cmds {
		hashes[i] = cmd.Val()
	}
	return hashes, nil
}

// Versions returns the versions of days. With several partitions a version is a hash of those of all.
func (s *Store) Versions(ctx context.Context, days []event.Day) ([]string, error) {
	const doing = "read versions"
	if err := s.contact(ctx); err != nil {
		return nil, s.fail(doing, err)
	}
	cmds := make([][]*client.StringCmd, len(days))
	// Single keys, since a cluster that moves a slot refuses to read several of which some are missing.
	_, err := s.client.Pipelined(ctx, func(pipe client.Pipeliner) error {
		for i, day := range days {
			for _, space := range s.spaces {
				cmds[i] = append(cmds[i], pipe.Get(ctx, space.version(day)))
			}
		}
		return nil
	})
	if err != nil && err != client.Nil { //nolint:errorlint // the first of many, not wrapped
		return nil, s.fail(doing, err)
	}
	versions := make([]string, len(days))
	for i := range days {
		if versions[i], err = combine(cmds[i]); err != nil {
			return nil, s.fail(doing, err)
		}
	}
	return versions, nil
}

// combine makes one version of those of all partitions, "" where there is none.
func combine(cmds []*client.StringCmd) (string, error) {
	h, last, any := fnv.New128a(), "", false
	for _, cmd := range cmds {
		nonce, err := cmd.Result()
		if err != nil && err != client.Nil { //nolint:errorlint // as above
			return "", err
		}
		any = any || err == nil
		last = nonce
		fmt.Fprintf(h, "%s ", nonce)
	}
	switch {
	case !any:
		return "", nil
	case len(cmds) == 1:
		return last, nil
	default:
		return fmt.Sprintf("%x", h.Sum(nil)), nil
	}
}

// partitionsAtOnce bounds the partitions that one call reads at the same time.
const partitionsAtOnce = 4

// Types returns the number of events per type for each day. The days of one partition are read at one moment.
func (s *Store) Types(ctx context.Context, days []event.Day) ([]map[string]uint64, error) {
	const doing = "read types"
	if err := s.contact(ctx); err != nil {
		return nil, s.fail(doing, err)
	}
	cmds := make([][]*client.MapStringStringCmd, len(s.spaces))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(partitionsAtOnce)
	for p, space := range s.spaces {
		group.Go(func() error {
			_, err := s.client.TxPipelined(groupCtx, func(pipe client.Pipeliner) error {
				for _, day := range days {
					cmds[p] = append(cmds[p], pipe.HGetAll(groupCtx, space.types(day)))
				}
				return nil
			})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, s.fail(doing, err)
	}
	types := make([]map[string]uint64, len(days))
	for i := range days {
		types[i] = make(map[string]uint64)
		for p := range s.spaces {
			for name, text := range cmds[p][i].Val() {
				n, err := strconv.ParseUint(text, 10, 64)
				if err != nil {
					return nil, fmt.Errorf("%s of %v: the count of a type is not a number", doing, days[i])
				}
				types[i][name] += n
			}
		}
	}
	return types, nil
}
