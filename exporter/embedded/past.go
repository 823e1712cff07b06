package embedded

import (
	"context"
	"fmt"
	"iter"
	"math"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"usaged/exporter/backfill"
)

// Recorded returns what was appended to the series of a metric, by rules and scrapes, not by WritePast.
func (p *Prometheus) Recorded(ctx context.Context, metric string, g backfill.Grid) (backfill.Recorded, error) {
	r := p.running.Load()
	if r == nil {
		return nil, ErrNotOpen
	}
	mint, maxt := g.Start.UnixMilli()+1, g.Until().UnixMilli()
	readers := []tsdb.BlockReader{tsdb.NewRangeHead(r.db.Head(), mint, maxt)}
	for _, b := range r.db.Blocks() {
		if meta := b.Meta(); !isPast(&meta) && b.OverlapsClosedInterval(mint, maxt) {
			readers = append(readers, b)
		}
	}
	recorded := backfill.Recorded{}
	for _, reader := range readers {
		if err := note(ctx, recorded, reader, metric, g); err != nil {
			return nil, fmt.Errorf("read what was recorded as %s: %w", metric, err)
		}
	}
	return recorded, nil
}

// note notes the samples of a block.
func note(ctx context.Context, recorded backfill.Recorded, b tsdb.BlockReader, metric string, g backfill.Grid) error {
	return eachSeries(ctx, b, g.At(-1)+1, g.At(g.N-1), named(metric), func(ls labels.Labels, it chunkenc.Iterator) error {
		cells := recorded.Add(ls, g)
		for it.Next() != chunkenc.ValNone {
			if c := g.Cell(it.AtT()); c >= 0 && c < g.N {
				cells[c] = true
			}
		}
		return it.Err()
	})
}

// named matches the series of a metric.
func named(metric string) *labels.Matcher {
	return labels.MustNewMatcher(labels.MatchEqual, model.MetricNameLabel, metric)
}

// eachSeries calls f for the series of a block that have samples in a time.
func eachSeries(ctx context.Context, b tsdb.BlockReader, mint, maxt int64, m *labels.Matcher, f func(labels.Labels, chunkenc.Iterator) error) error {
	q, err := tsdb.NewBlockQuerier(b, mint, maxt)
	if err != nil {
		return err
	}
	defer q.Close() //nolint:errcheck // it was only read
	var it chunkenc.Iterator
	set := q.Select(ctx, true, &storage.SelectHints{Start: mint, End: maxt}, m)
	for set.Next() {
		it = set.At().Iterator(it)
		if err := f(set.At().Labels(), it); err != nil {
			return err
		}
	}
	return set.Err()
}

// WritePast replaces what it has written before by other samples, which queries then find among those that were scraped and
// recorded. Of what it had written the samples before a time stay, and those older than the retention go. A crash leaves
// what was there before or what is new. The samples are not sent by remote write. It returns how many there are now.
//
// One call at a time.
func (p *Prometheus) WritePast(ctx context.Context, keepBefore time.Time, series iter.Seq[backfill.Series]) (samples uint64, err error) {
	r := p.running.Load()
	if r == nil {
		return 0, ErrNotOpen
	}
	oldest, before := p.cfg.Now().Add(-p.cfg.Retention).UnixMilli(), keepBefore.UnixMilli()
	if keepBefore.IsZero() {
		before = math.MinInt64
	}
	return r.replacePast(ctx, func(labels.Labels) (from, until int64) { return oldest, before }, series)
}
