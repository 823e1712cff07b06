package journal_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"

	"github.com/VictoriaMetrics/metrics"

	"usaged/aggregator/journal"
)

// entryOf returns an entry of about the size and compressibility of a usage event.
func entryOf(i, size int) []byte {
	e := fmt.Appendf(nil, `{"user_id":"user-%d","event_type":"sql_generation","metadata":{"question":"how many in region %x"`, i%5000, i*2654435761)
	return append(e, bytes.Repeat([]byte("x"), max(0, size-len(e)))...)
}

func batchOf(n, size int) journal.Batch {
	b := journal.Batch{N: n}
	for i := range n {
		b.Entries = journal.AppendEntry(b.Entries, entryOf(i, size))
	}
	return b
}

func BenchmarkAppend(b *testing.B) {
	for _, bench := range []struct{ senders, batch int }{{1, 1}, {32, 1}, {128, 1}, {512, 1}, {1, 1000}, {4, 1000}} {
		b.Run(fmt.Sprintf("senders=%d/batch=%d", bench.senders, bench.batch), func(b *testing.B) {
			benchmarkAppend(b, bench.senders, batchOf(bench.batch, 200))
		})
	}
}

func benchmarkAppend(b *testing.B, senders int, batch journal.Batch) {
	set := metrics.NewSet()
	j := open(b, journal.Config{Dir: b.TempDir(), Metrics: set})
	work := make(chan struct{})
	var wg sync.WaitGroup
	for range senders {
		wg.Go(func() {
			for range work {
				for range 16 {
					if _, err := j.Append(batch); err != nil {
						b.Error(err)
					}
				}
			}
		})
	}
	b.ReportAllocs()
	done := 0
	for b.Loop() {
		if done%16 == 0 {
			work <- struct{}{}
		}
		done++
	}
	close(work)
	wg.Wait()
	b.ReportMetric(float64(j.End())/b.Elapsed().Seconds(), "events/s")
	commits := set.GetOrCreateCounter("usaged_journal_commits_total").Get()
	b.ReportMetric(float64(j.End())/float64(commits), "events/commit")
}

func BenchmarkRead(b *testing.B) {
	for _, batch := range []int{1, 60, 1000} {
		b.Run(fmt.Sprintf("batch=%d", batch), func(b *testing.B) {
			j := open(b, journal.Config{Dir: b.TempDir()})
			fill(b, j, 200_000/batch/10, batchOf(batch, 200))
			b.ReportAllocs()
			events := 0
			for b.Loop() {
				events += count(b, j)
			}
			b.ReportMetric(float64(events)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

func fill(b *testing.B, j *journal.Journal, batches int, batch journal.Batch) {
	b.Helper()
	for range batches {
		if _, err := j.Append(batch); err != nil {
			b.Fatal(err)
		}
	}
}

func count(b *testing.B, j *journal.Journal) int {
	b.Helper()
	r, err := j.Reader(0)
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	n := 0
	for {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			return n
		}
		if err != nil {
			b.Fatal(err)
		}
		for range rec.Each {
			n++
		}
	}
}

func BenchmarkReaderFrom(b *testing.B) {
	j := open(b, journal.Config{Dir: b.TempDir()})
	fill(b, j, 1000, batchOf(1000, 200))
	b.ReportAllocs()
	i := uint64(0)
	for b.Loop() {
		i = (i + 7919*131) % j.End()
		r, err := j.Reader(i)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := r.Next(); err != nil {
			b.Fatal(err)
		}
		if err := r.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
