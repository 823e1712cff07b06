package remotewrite

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/index"
)

// sample is one sample of a batch, a number or a histogram.
type sample struct {
	series int // index into batch.series
	t, st  int64
	v      float64
	h      *histogram.Histogram
	fh     *histogram.FloatHistogram
}

func (s *sample) isHistogram() bool { return s.h != nil || s.fh != nil }

// batch is what was read from the TSDB, in the order of time.
type batch struct {
	series  []series
	samples []sample
}

// series is a series as it is sent.
type series struct {
	labels labels.Labels
	metric string // its name in the TSDB, by which metadata are found
}

// read reads what is to be sent: everything after cursor up to end, and the samples that came late.
func (s *sender) read(ctx context.Context, cursor, end int64, late []lateness) (*batch, error) {
	from, to, only := cursor+1, end, map[point]bool{}
	for _, l := range late {
		from, to = min(from, l.t), max(to, l.t)
		only[l.point] = true
	}
	querier, err := s.db.Querier(from, to)
	if err != nil {
		return nil, fmt.Errorf("read the TSDB: %w", err)
	}
	defer querier.Close() //nolint:errcheck // it was only read
	name, value := index.AllPostingsKey()
	set := querier.Select(ctx, false, &storage.SelectHints{Start: from, End: to}, labels.MustNewMatcher(labels.MatchEqual, name, value))
	b, builder := &batch{}, labels.NewBuilder(labels.EmptyLabels())
	var it chunkenc.Iterator
	for set.Next() {
		found := set.At()
		sent, keep := s.relabel(builder, found.Labels())
		if !keep {
			continue
		}
		it = found.Iterator(it)
		hash := uint64(0)
		if len(only) > 0 {
			hash = found.Labels().Hash()
		}
		wanted := func(t int64) bool { return t > cursor && t <= end || only[point{hash, t}] }
		if err := b.add(series{sent, found.Labels().Get(model.MetricNameLabel)}, it, s.cfg.SendNativeHistograms && !s.classic, wanted); err != nil {
			return nil, fmt.Errorf("read the TSDB: %w", err)
		}
	}
	if err := set.Err(); err != nil {
		return nil, fmt.Errorf("read the TSDB: %w", err)
	}
	slices.SortStableFunc(b.samples, func(x, y sample) int { return cmp.Compare(x.t, y.t) })
	return b, nil
}

// relabel gives a series the external labels and the endpoint's relabelling.
func (s *sender) relabel(b *labels.Builder, ls labels.Labels) (labels.Labels, bool) {
	b.Reset(ls)
	s.external.Range(func(l labels.Label) {
		if b.Get(l.Name) == "" {
			b.Set(l.Name, l.Value)
		}
	})
	if !relabel.ProcessBuilder(b, s.cfg.WriteRelabelConfigs...) {
		return labels.EmptyLabels(), false
	}
	return b.Labels(), true
}

// add adds the samples of one series.
func (b *batch) add(ser series, it chunkenc.Iterator, histograms bool, wanted func(int64) bool) error {
	began := len(b.samples)
	for kind := it.Next(); kind != chunkenc.ValNone; kind = it.Next() {
		if !wanted(it.AtT()) {
			continue
		}
		one := sample{series: len(b.series), st: it.AtST()}
		switch kind {
		case chunkenc.ValFloat:
			one.t, one.v = it.At()
		case chunkenc.ValHistogram:
			one.t, one.h = it.AtHistogram(nil)
		default:
			one.t, one.fh = it.AtFloatHistogram(nil)
		}
		if one.isHistogram() && !histograms {
			continue
		}
		b.samples = append(b.samples, one)
	}
	if len(b.samples) > began {
		b.series = append(b.series, ser)
	}
	return it.Err()
}

// cut returns how many of the samples make the next request, at most limit, and up to which time everything has been sent
// when they have been. It does not cut through the samples of one time where it need not.
func cut(samples []sample, limit int) (n int, through int64) {
	if len(samples) <= limit {
		return len(samples), samples[len(samples)-1].t
	}
	n = limit
	if next := samples[n].t; samples[n-1].t == next {
		first, _ := slices.BinarySearchFunc(samples, next, func(s sample, t int64) int { return cmp.Compare(s.t, t) })
		if first == 0 {
			return n, next - 1
		}
		n = first
	}
	return n, samples[n-1].t
}
