package sqlite

import (
	"context"
	"strconv"
)

// LimitPages lets the database have no more than n pages beyond those it has: the disk is full then. 0 lifts the limit.
func (s *Store) LimitPages(ctx context.Context, n int) error {
	var pages, limit int
	if err := s.writer.conn.QueryRowContext(ctx, "PRAGMA page_count").Scan(&pages); err != nil {
		return err
	}
	if limit = pages + n; n == 0 {
		limit = 1 << 30
	}
	return s.writer.conn.QueryRowContext(ctx, "PRAGMA max_page_count = "+strconv.Itoa(limit)).Scan(&limit)
}

// LimitWAL sets the size at which the log is emptied by force.
func (s *Store) LimitWAL(bytes int64) { s.writer.walLimit = bytes }

// ShortenWaits lets the writer wait for locks hardly at all.
func (s *Store) ShortenWaits(ctx context.Context) error {
	_, err := s.writer.conn.ExecContext(ctx, "PRAGMA busy_timeout = 10")
	return err
}

// LimitClaimStep sets how many claims one transaction of Expire looks at.
func (s *Store) LimitClaimStep(n int) { s.claimStep = n }
