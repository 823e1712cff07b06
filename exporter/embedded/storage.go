package embedded

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/util/compression"
)

const (
	// outOfOrderWindow is how far the clock may go back without samples being refused.
	outOfOrderWindow = 48 * time.Hour
	// maxExemplars is how many exemplars are kept, in memory, about 100 bytes each.
	maxExemplars = 10_000
	// blocksPerRetention is into how many blocks the retention is compacted: enough for expiry to be smooth, and few to open.
	blocksPerRetention = 10
	// clockAhead is how far behind the newest sample of all another may be before the clock is taken to have been ahead. No
	// scrape and no rule takes that long.
	clockAhead = 10 * time.Minute
)

func openTSDB(cfg *Config, log *slog.Logger, reg prometheus.Registerer) (*tsdb.DB, error) {
	opts := tsdb.DefaultOptions()
	opts.RetentionDuration = cfg.Retention.Milliseconds()
	opts.MaxBytes = cfg.MaxBytes
	opts.MaxBlockDuration = max(opts.MinBlockDuration, opts.RetentionDuration/blocksPerRetention)
	opts.OutOfOrderTimeWindow = outOfOrderWindow.Milliseconds()
	opts.WALCompression = compression.Snappy
	opts.StripeSize = 1 << 10 // the default is for millions of series, and costs 16 MB
	opts.NoLockfile = true    // the data directory has its own
	opts.EnableExemplarStorage, opts.MaxExemplars = true, maxExemplars
	opts.EnableMetadataWALRecords = true
	opts.EnableSTStorage, opts.EnableHistogramSTEncoding, opts.FloatChunkEncoding = true, true, chunkenc.EncXOR2
	opts.NewCompactorFunc = newCompactor
	old := &expiry{retention: cfg.Retention, now: cfg.Deletion}
	if old.now == nil {
		old.now = cfg.Now
	}
	opts.BlocksToDelete = old.blocks
	opts.BlockReloadInterval = math.MaxInt64 // a hundred years and more: see tend. Blocks are loaded when one was written.
	db, err := tsdb.Open(cfg.Dir, log, reg, opts, tsdb.NewDBStats())
	if err != nil {
		return nil, fmt.Errorf("open %w in %s: %w", errTSDB, cfg.Dir, err)
	}
	old.db.Store(db)
	return db, nil
}

// newCompactor makes the compactor as the TSDB would, and guards it.
func newCompactor(ctx context.Context, reg prometheus.Registerer, log *slog.Logger, ranges []int64, pool chunkenc.Pool, opts *tsdb.Options,
) (tsdb.Compactor, error) {
	c, err := tsdb.NewLeveledCompactorWithOptions(ctx, reg, log, ranges, pool, tsdb.LeveledCompactorOptions{
		MaxBlockChunkSegmentSize:    opts.MaxBlockChunkSegmentSize,
		EnableOverlappingCompaction: opts.EnableOverlappingCompaction,
		FloatChunkEncoding:          func() chunkenc.Encoding { return opts.FloatChunkEncoding },
	})
	if err != nil {
		return nil, err
	}
	return guardedCompactor{c}, nil
}

// forgiving is a TSDB that takes what rules record after the clock has gone back. They ask for samples out of order to be
// refused; after a clock that was a day ahead that would be all of them for a day.
type forgiving struct{ db *tsdb.DB }

func (f forgiving) AppenderV2(ctx context.Context) storage.AppenderV2 {
	return &forgivingAppender{next: f.db.AppenderV2(ctx), newest: f.db.Head().MaxTime()}
}

type forgivingAppender struct {
	next   storage.AppenderV2
	newest int64
}

func (a *forgivingAppender) Append(ref storage.SeriesRef, ls labels.Labels, st, t int64, v float64, h *histogram.Histogram, fh *histogram.FloatHistogram,
	opts storage.AOptions,
) (storage.SeriesRef, error) {
	if t < a.newest-clockAhead.Milliseconds() {
		opts.RejectOutOfOrder = false
	}
	return a.next.Append(ref, ls, st, t, v, h, fh, opts)
}

func (a *forgivingAppender) AppendExemplars(ref storage.SeriesRef, ls labels.Labels, exemplars []exemplar.Exemplar) (storage.SeriesRef, error) {
	if next, ok := a.next.(storage.ExemplarAppenderV2); ok {
		return next.AppendExemplars(ref, ls, exemplars)
	}
	return ref, nil
}

func (a *forgivingAppender) Commit() error   { return a.next.Commit() }
func (a *forgivingAppender) Rollback() error { return a.next.Rollback() }
