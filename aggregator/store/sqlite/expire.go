package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"time"

	"usaged/aggregator/event"
	"usaged/aggregator/store"
)

// Expire removes old days and claims, in transactions so small that Apply never waits for long.
func (s *Store) Expire(ctx context.Context, oldest event.Day, now time.Time) error {
	for more := true; more; {
		var err error
		if more, err = s.expireDay(ctx, oldest); err != nil {
			return fmt.Errorf("expire day: %w", explain(err))
		}
	}
	if err := s.expireClaims(ctx, now.Add(-store.ClaimLifetime).UnixMilli()); err != nil {
		return fmt.Errorf("expire claims: %w", explain(err))
	}
	return nil
}

// expireDay removes one day before oldest, and returns whether there was one.
func (s *Store) expireDay(ctx context.Context, oldest event.Day) (found bool, err error) {
	w := s.writer
	err = s.write(ctx, func() (bool, error) {
		var day sql.NullInt64
		if err := w.row("SELECT min(day) FROM day WHERE day < ?", []any{int64(oldest)}, &day); err != nil {
			return false, err
		}
		if found = day.Valid; !found {
			return false, nil
		}
		w.days.clear()
		for _, query := range []string{
			"DELETE FROM cell WHERE rollup IN (SELECT id FROM rollup WHERE day = ?)",
			"DELETE FROM rollup WHERE day = ?",
			"DELETE FROM day_type WHERE day = ?",
			"DELETE FROM day WHERE day = ?",
		} {
			if _, err := w.exec(query, day.Int64); err != nil {
				return false, err
			}
		}
		return true, nil
	})
	return found, err
}

// claimKey is the primary key of a claim.
type claimKey struct {
	day       int64
	partition int
	digest    []byte
	accepted  int64
}

// claimStep is how many claims one transaction of expireClaims looks at: some 20 ms.
const claimStep = 20_000

// expireClaims removes the claims accepted before oldest. It walks through the days that may have such claims in steps, of
// which each knows its end before it takes the writer's turn.
func (s *Store) expireClaims(ctx context.Context, oldest int64) error {
	from, last := claimKey{day: math.MinInt64}, false
	for !last {
		to := claimKey{day: acceptedDay(oldest)}
		err := s.reader().QueryRowContext(ctx, `SELECT accepted_day, partition, digest, accepted FROM claim
			WHERE (accepted_day, partition, digest, accepted) > (?, ?, ?, ?) AND accepted_day <= ?
			ORDER BY accepted_day, partition, digest, accepted LIMIT 1 OFFSET ?`,
			from.day, from.partition, from.digest, from.accepted, to.day, s.claimStep-1,
		).Scan(&to.day, &to.partition, &to.digest, &to.accepted)
		if last = errors.Is(err, sql.ErrNoRows); last {
			to = claimKey{day: to.day, partition: math.MaxInt}
		} else if err != nil {
			return err
		}
		err = s.write(ctx, func() (bool, error) {
			_, err := s.writer.exec(`DELETE FROM claim WHERE (accepted_day, partition, digest, accepted) > (?, ?, ?, ?)
				AND (accepted_day, partition, digest, accepted) <= (?, ?, ?, ?) AND accepted < ?`,
				from.day, from.partition, from.digest, from.accepted, to.day, to.partition, to.digest, to.accepted, oldest)
			return true, err
		})
		if err != nil {
			return err
		}
		from = to
	}
	return nil
}
