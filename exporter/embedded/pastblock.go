package embedded

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"usaged/exporter/backfill"
)

// What WritePast writes is one block in the directory of the TSDB. Two things of its meta.json keep it what it is:
//
//   - The hint from-selected-series, which nothing else here writes. Such a block is compacted with its like alone, of which there
//     is no second, so it stays apart and can be replaced; and its end, which lies behind samples that are in the log alone,
//     is not taken for the time up to which the log has been compacted.
//   - The parent, which is the block before. When the TSDB loads the new block it deletes its parents, also at the next start, should
//     this process be killed in between.

// pastChunks is the directory of what is not in a block yet.
const pastChunks = "past-chunks"

// pastRange is twice what the samples of a block may lie apart.
const pastRange = 100 * 365 * 24 * time.Hour

// isPast says whether a block was written by WritePast.
func isPast(meta *tsdb.BlockMeta) bool { return meta.Compaction.FromSelectedSeries() }

// replacePast writes a new block, of series and of what kept leaves of the block before: samples of a series from a time until
// another.
func (r *running) replacePast(ctx context.Context, kept func(labels.Labels) (from, until int64), series iter.Seq[backfill.Series]) (samples uint64, err error) {
	w, err := newPastWriter(r.db.Dir())
	if err != nil {
		return 0, fmt.Errorf("prepare a block of the past: %w", err)
	}
	defer func() { err = errors.Join(err, w.close()) }()
	before := tsdb.BlockMeta{}
	for _, b := range r.db.Blocks() {
		if meta := b.Meta(); isPast(&meta) {
			before = meta
			err = errors.Join(err, w.copy(ctx, b, kept))
		}
	}
	for s := range series {
		if err == nil {
			err = w.append(ctx, s.Labels, s.Samples)
		}
	}
	if err != nil {
		return 0, fmt.Errorf("collect a block of the past: %w", err)
	}
	if w.samples == 0 {
		return 0, nil
	}
	r.db.DisableCompactions() // which would merge the two
	defer r.db.EnableCompactions()
	if err := w.write(ctx, r.db.Dir(), before); err != nil {
		return 0, fmt.Errorf("write a block of the past: %w", err)
	}
	if err := r.db.CompactOOOHead(ctx); err != nil { // nothing else has blocks loaded at once
		return 0, fmt.Errorf("load a block of the past: %w", err)
	}
	return w.samples, nil
}

// pastWriter collects samples in memory, and in memory-mapped files, and writes a block of them.
type pastWriter struct {
	dir     string
	head    *tsdb.Head
	samples uint64
}

func newPastWriter(dir string) (*pastWriter, error) {
	w := &pastWriter{dir: filepath.Join(dir, pastChunks)}
	if err := os.RemoveAll(w.dir); err != nil { // a crash has left it
		return nil, err
	}
	opts := tsdb.DefaultHeadOptions()
	opts.ChunkRange = pastRange.Milliseconds()
	opts.ChunkDirRoot = w.dir
	opts.StripeSize = 1 << 8
	var err error
	if w.head, err = tsdb.NewHead(nil, nil, nil, nil, opts, tsdb.NewHeadStats()); err != nil {
		return nil, err
	}
	if err := w.head.Init(math.MinInt64); err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

// copy appends what kept leaves of a block.
func (w *pastWriter) copy(ctx context.Context, b tsdb.BlockReader, kept func(labels.Labels) (from, until int64)) error {
	var samples []backfill.Sample
	all := labels.MustNewMatcher(labels.MatchNotEqual, "__name__", "")
	return eachSeries(ctx, b, math.MinInt64, math.MaxInt64, all, func(ls labels.Labels, it chunkenc.Iterator) error {
		samples = samples[:0]
		from, until := kept(ls)
		for it.Next() != chunkenc.ValNone {
			if t, v := it.At(); t >= from && t < until {
				samples = append(samples, backfill.Sample{At: t, Value: v})
			}
		}
		if err := it.Err(); err != nil {
			return err
		}
		return w.append(ctx, ls, samples)
	})
}

// append adds samples of a series.
func (w *pastWriter) append(ctx context.Context, ls labels.Labels, samples []backfill.Sample) error {
	if len(samples) == 0 {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	app, ref := w.head.AppenderV2(ctx), storage.SeriesRef(0)
	for _, s := range samples {
		var err error
		if ref, err = app.Append(ref, ls, 0, s.At, s.Value, nil, nil, storage.AOptions{}); err != nil {
			return errors.Join(fmt.Errorf("%s at %d: %w", ls, s.At, err), app.Rollback())
		}
	}
	w.samples += uint64(len(samples))
	return app.Commit()
}

// write writes the block that takes the place of another, if there is one.
func (w *pastWriter) write(ctx context.Context, dir string, before tsdb.BlockMeta) error {
	compactor, err := tsdb.NewLeveledCompactor(ctx, nil, nil, []int64{tsdb.DefaultBlockDuration}, nil, nil)
	if err != nil {
		return err
	}
	base := tsdb.BlockMeta{ULID: before.ULID, MinTime: before.MinTime, MaxTime: before.MaxTime}
	base.Compaction.SetSelectedSeries()
	_, err = compactor.Write(dir, w.head, w.head.MinTime(), w.head.MaxTime()+1, &base) // a block does not include its end
	return err
}

func (w *pastWriter) close() error { return errors.Join(w.head.Close(), os.RemoveAll(w.dir)) }
