package redis

import (
	"context"
	"time"

	client "github.com/redis/go-redis/v9"
)

// Alive notes that a producer lives for as long as given, and returns how many producers do, by the clock of Redis: itself, and
// those that have applied a batch, if only the empty one with which they begin. What it notes expires and is nobody's count: a Redis that forgets it is told again.
func (s *Store) Alive(ctx context.Context, producer string, lives time.Duration) (int, error) {
	const doing = "note that the producer lives"
	if err := s.contact(ctx); err != nil {
		return 0, s.fail(doing, err)
	}
	space := s.spaces[0] // all keys of one partition lie in one slot
	if err := s.client.Set(ctx, space.alive(producer), 1, lives).Err(); err != nil {
		return 0, s.fail(doing, err)
	}
	ids, err := s.client.SMembers(ctx, space.producers()).Result()
	if err != nil {
		return 0, s.fail(doing, err)
	}
	found := []*client.IntCmd{}
	_, err = s.client.Pipelined(ctx, func(pipe client.Pipeliner) error {
		for _, id := range ids {
			if id != producer { // which may not be listed yet
				found = append(found, pipe.Exists(ctx, space.alive(id)))
			}
		}
		return nil
	})
	if err != nil {
		return 0, s.fail(doing, err)
	}
	n := 1
	for _, cmd := range found {
		n += int(cmd.Val())
	}
	return n, nil
}
