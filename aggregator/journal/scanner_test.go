package journal_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/prometheus/prometheus/tsdb/wlog"
	"github.com/prometheus/prometheus/util/compression"
	"pgregory.net/rapid"

	"usaged/aggregator/journal"
)

// wlogRecords reads a segment with the reader that wlog has.
func wlogRecords(path string) ([][]byte, error) {
	segment, err := wlog.OpenReadSegment(path)
	if err != nil {
		return nil, err
	}
	buffered := wlog.NewSegmentBufReader(segment)
	defer buffered.Close()
	r := wlog.NewReader(buffered)
	var records [][]byte
	for r.Next() {
		records = append(records, bytes.Clone(r.Record()))
	}
	return records, r.Err()
}

func TestScannerReadsWhatWlogReads(t *testing.T) {
	t.Parallel()
	sizes := rapid.OneOf(rapid.IntRange(0, 300), rapid.IntRange(32_600, 32_800), rapid.IntRange(0, 150_000))
	dir := filepath.Join(t.TempDir(), "log")
	rapid.Check(t, func(rt *rapid.T) {
		defer os.RemoveAll(dir)
		how := rapid.SampledFrom([]string{compression.None, compression.Snappy, compression.Zstd}).Draw(rt, "compression")
		log, err := wlog.NewSize(nil, nil, dir, 256<<10, how)
		if err != nil {
			rt.Fatal(err)
		}
		for i, size := range rapid.SliceOfN(sizes, 0, 30).Draw(rt, "sizes") {
			record := []byte(noise(i, size))
			if rapid.Bool().Draw(rt, "compressible") {
				record = bytes.Repeat([]byte{byte(i)}, size)
			}
			if err := log.Log(record); err != nil {
				rt.Fatal(err)
			}
		}
		if rapid.Bool().Draw(rt, "close first") {
			if err := log.Close(); err != nil {
				rt.Fatal(err)
			}
		} else {
			defer log.Close()
		}
		compareSegments(rt, dir)
	})
}

func compareSegments(rt *rapid.T, dir string) {
	first, last, err := wlog.Segments(dir)
	if err != nil {
		rt.Fatal(err)
	}
	for i := first; i <= last; i++ {
		want, err := wlogRecords(wlog.SegmentName(dir, i))
		if err != nil {
			rt.Fatalf("wlog: %v", err)
		}
		got, err := journal.ScanPayloads(wlog.SegmentName(dir, i))
		if err != nil {
			rt.Fatalf("segment %d: %v", i, err)
		}
		if len(got) != len(want) {
			rt.Fatalf("segment %d: got %d records, wlog reads %d", i, len(got), len(want))
		}
		for k := range got {
			if !bytes.Equal(got[k], want[k]) {
				rt.Fatalf("segment %d: record %d differs", i, k)
			}
		}
	}
}
