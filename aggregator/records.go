package aggregator

import (
	"context"
	"errors"
	"io"

	"usaged/aggregator/ids"
	"usaged/aggregator/journal"
	"usaged/aggregator/seqset"
)

// readVerdicts adds the verdicts on the events behind one to a set. They may lie anywhere behind these events.
func (s source) readVerdicts(ctx context.Context, after uint64, verdicts *seqset.Set) error {
	return s.readRecords(ctx, after, func(rec *journal.Record) (bool, error) {
		if rec.Note == nil {
			return true, nil
		}
		return true, ids.DecodeVerdict(rec.Note, verdicts)
	})
}

// readRecords calls f for the records behind after, until it returns false, the journal or ctx ends.
func (s source) readRecords(ctx context.Context, after uint64, f func(*journal.Record) (bool, error)) error {
	reader, err := s.journal.Reader(after)
	if err != nil {
		return err
	}
	return eachRecord(ctx, reader, f)
}

// eachRecord does it for those of a reader, and closes it.
func eachRecord(ctx context.Context, reader *journal.Reader, f func(*journal.Record) (bool, error)) error {
	defer reader.Close() //nolint:errcheck // it was only read
	for ctx.Err() == nil {
		rec, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if more, err := f(&rec); err != nil || !more {
			return err
		}
	}
	return context.Cause(ctx)
}
