package journal_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/VictoriaMetrics/metrics"
	"github.com/google/uuid"
	"github.com/prometheus/prometheus/tsdb/wlog"

	"usaged/aggregator/journal"
)

// files is the content of a directory, without subdirectories and files that vanish while they are read.
type files map[string][]byte

func readFiles(t testing.TB, dir string) files {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := files{}
	for _, e := range entries {
		if e.IsDir() {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		all[e.Name()] = data
	}
	return all
}

func (f files) write(t testing.TB, dir string) {
	t.Helper()
	for name, data := range f {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// with returns a copy in which one file is replaced.
func (f files) with(name string, data []byte) files {
	c := maps.Clone(f)
	c[name] = data
	return c
}

func segmentName(i int) string { return filepath.Base(wlog.SegmentName("", i)) }

// crashed is what a crash left of a journal whose last record was not acknowledged.
type crashed struct {
	files
	kept  []event
	begin int // of the last record, in the last segment
}

// crash writes a record of the given number of entries behind fill bytes of others, and takes the files away.
func crash(t testing.TB, fill int, entries ...string) crashed {
	t.Helper()
	dir := t.TempDir()
	j := open(t, journal.Config{Dir: dir})
	var c crashed
	for i, size := range []int{1, fill, 100} {
		c.kept = append(c.kept, event{uint64(i + 1), noise(i, size)})
		mustAppend(t, j, c.kept[i].data)
	}
	c.begin = int(j.Segments()[0].Bytes)
	mustAppend(t, j, entries...)
	c.files = readFiles(t, dir)
	return c
}

func TestTornTailIsCut(t *testing.T) {
	t.Parallel()
	big := make([]string, 4)
	for i := range big {
		big[i] = noise(i+100, 20_000)
	}
	for name, c := range map[string]struct {
		crashed
		stride int
	}{
		"it fits a page":       {crash(t, 10, noise(9, 60), "x"), 1},
		"it crosses a page":    {crash(t, 32_300, noise(9, 150), "x"), 1},
		"it spans three pages": {crash(t, 10, big...), 1021},
		"it is compressed":     {crash(t, 10, strings.Repeat("x", 1000), "y"), 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			whole := c.files[segmentName(0)]
			for at := c.begin; at < len(whole); at += c.stride {
				for how, torn := range tears(whole, c.begin, at) {
					if t.Failed() {
						return
					}
					checkTorn(t, fmt.Sprintf("%s at %d", how, at-c.begin), c.with(segmentName(0), torn), c.kept)
				}
			}
		})
	}
}

// tears returns what a crash may leave where the record that begins at begin was to be written.
func tears(whole []byte, begin, at int) files {
	tears := files{"short": bytes.Clone(whole[:at])}
	tail := len(whole) - at
	tears["zeros"] = append(bytes.Clone(whole[:at]), make([]byte, tail)...)
	tears["scrambled"] = append(bytes.Clone(whole[:at]), noise(at, tail)...)
	tears["zeros behind the page"] = append(bytes.Clone(whole[:at]), make([]byte, 70_000)...)
	head := bytes.Clone(whole) // the first pages were not written, the last were
	for i := begin; i <= at; i++ {
		head[i] = 0
	}
	tears["scrambled head"] = head
	if bytes.Equal(tears["zeros"], whole) { // the record ends with zeros
		delete(tears, "zeros")
		delete(tears, "zeros behind the page")
	}
	return tears
}

// memoryDir returns a directory where fsync costs nothing, if there is one.
func memoryDir(t testing.TB) string {
	t.Helper()
	dir := filepath.Join("/dev/shm", "journal-"+uuid.NewString())
	if err := os.Mkdir(dir, 0o700); err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func checkTorn(t *testing.T, what string, f files, want []event) {
	t.Helper()
	dir := memoryDir(t)
	f.write(t, dir)
	j, err := journal.Open(journal.Config{Dir: dir})
	if err != nil {
		t.Errorf("%s: Open: %v", what, err)
		return
	}
	defer j.Close()
	events, _, gap := readAll(t, j, 0)
	sameEvents(t, what, events, want)
	if gap != 0 {
		t.Errorf("%s: a gap of %d", what, gap)
	}
	if first := mustAppend(t, j, "next"); first != uint64(len(want)+1) {
		t.Errorf("%s: the next event got number %d, want %d", what, first, len(want)+1)
	}
}

func TestTornTailIsCountedAndLogged(t *testing.T) {
	t.Parallel()
	c := crash(t, 10, "last")
	dir := t.TempDir()
	whole := c.files[segmentName(0)]
	c.with(segmentName(0), whole[:len(whole)-1]).write(t, dir)
	set := metrics.NewSet()
	var log bytes.Buffer
	j := open(t, journal.Config{Dir: dir, Metrics: set, Log: slog.New(slog.NewTextHandler(&log, nil))})
	torn := len(whole) - 1 - c.begin
	if got := set.GetOrCreateCounter("usaged_journal_torn_tail_bytes_total").Get(); got != uint64(torn) {
		t.Errorf("%d torn bytes counted, want %d", got, torn)
	}
	want := fmt.Sprintf("segment=0 offset_bytes=%d torn_bytes=%d", c.begin, torn)
	if !strings.Contains(log.String(), want) || !strings.Contains(log.String(), "level=WARN") {
		t.Errorf("log %q lacks %q", log.String(), want)
	}
	if j.End() != 3 {
		t.Errorf("End is %d, want 3", j.End())
	}
}

func TestRotBehindACleanStopIsDamage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := open(t, journal.Config{Dir: dir})
	mustAppend(t, j, "a")
	begin := j.Segments()[0].Bytes
	mustAppend(t, j, "b", "c")
	end := j.Segments()[0].Bytes
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	clean := readFiles(t, dir)
	for at := begin; at < end; at++ {
		dir := t.TempDir()
		clean.with(segmentName(0), flip(clean[segmentName(0)], at)).write(t, dir)
		wantDamage(t, dir, journal.DamageError{Dir: dir, Segment: 0, Offset: begin, First: 2, Last: 3})
	}
}

func flip(data []byte, at int64) []byte {
	data = bytes.Clone(data)
	data[at] ^= 0x55
	return data
}

// wantDamage checks that Open refuses with this error and leaves everything as it is.
func wantDamage(t *testing.T, dir string, want journal.DamageError) {
	t.Helper()
	before := readFiles(t, dir)
	j, err := journal.Open(journal.Config{Dir: dir})
	if err == nil {
		j.Close()
		t.Fatalf("Open accepted a damaged journal, want %v", &want)
	}
	got, ok := errors.AsType[*journal.DamageError](err)
	if !ok {
		t.Fatalf("Open: got %v, want a DamageError", err)
	}
	cause := got.Err
	got.Err = nil
	if *got != want {
		t.Errorf("Open: got %+v (%v), want %+v", *got, cause, want)
	}
	for name, data := range readFiles(t, dir) {
		if !bytes.Equal(data, before[name]) {
			t.Errorf("Open changed %s", name)
		}
		delete(before, name)
	}
	if len(before) > 0 {
		t.Errorf("Open removed %d files", len(before))
	}
}

// threeSegments returns a journal of three sealed segments with events 1–30, 31–60, 61–90 and a last one with 91–93, and
// where each event's record begins and ends.
func threeSegments(t testing.TB) (dir string, all []event, ends map[uint64]int64) {
	t.Helper()
	dir = t.TempDir()
	j := open(t, journal.Config{Dir: dir})
	ends = map[uint64]int64{}
	for i := range 93 {
		if i > 0 && i%30 == 0 {
			roll(t, j)
		}
		all = append(all, event{uint64(i + 1), noise(i, 5000)})
		first := mustAppend(t, j, all[i].data)
		s := j.Segments()
		ends[first] = s[len(s)-1].Bytes
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	return dir, all, ends
}

func TestDamageInTheMiddleIsRefused(t *testing.T) {
	t.Parallel()
	dir, _, ends := threeSegments(t)
	whole := readFiles(t, dir)
	second := segmentName(1)
	for name, c := range map[string]struct {
		files
		want journal.DamageError
	}{
		"a flipped bit in a record": {whole.with(second, flip(whole[second], ends[40]+100)),
			journal.DamageError{Segment: 1, Offset: ends[40], First: 41, Last: 41}},
		"a record that begins as zeros": {whole.with(second, zero(whole[second], ends[40], ends[42]-10)),
			journal.DamageError{Segment: 1, Offset: ends[40], First: 41, Last: 42}},
		"a segment cut short": {whole.with(second, whole[second][:ends[50]]),
			journal.DamageError{Segment: 1, Offset: ends[50], First: 51, Last: 60}},
		"a segment cut inside a record": {whole.with(second, whole[second][:ends[50]+9]),
			journal.DamageError{Segment: 1, Offset: ends[50], First: 51, Last: 60}},
		"an empty segment": {whole.with(second, nil),
			journal.DamageError{Segment: 1, Offset: 0, First: 31, Last: 60}},
		"rot in a mark": {whole.with(second, flip(whole[second], 20)),
			journal.DamageError{Segment: 1, Offset: 0, First: 31, Last: 30}},
		"rot in the last segment": {whole.with(segmentName(3), flip(whole[segmentName(3)], ends[91]+100)),
			journal.DamageError{Segment: 3, Offset: ends[91], First: 92, Last: 92}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			c.write(t, dir)
			c.want.Dir = dir
			wantDamage(t, dir, c.want)
		})
	}
	t.Run("a missing segment", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		whole.write(t, dir)
		if err := os.Remove(wlog.SegmentName(dir, 1)); err != nil {
			t.Fatal(err)
		}
		wantDamage(t, dir, journal.DamageError{Dir: dir, Segment: 1, First: 31, Last: 60})
	})
}

func zero(data []byte, from, to int64) []byte {
	data = bytes.Clone(data)
	clear(data[from:to])
	return data
}

func TestDamageErrorSaysWhatToDo(t *testing.T) {
	t.Parallel()
	e := journal.DamageError{Dir: "/j", Segment: 3, Offset: 77, First: 5, Last: 9, Err: errors.New("rot")}
	want := "journal segment /j/00000003 is damaged at byte 77 (rot): events 5 to 9 are lost; " +
		"restore the file from a backup or run `usagectl journal repair /j`"
	if e.Error() != want {
		t.Errorf("got  %s\nwant %s", &e, want)
	}
	e.Last = 4
	if !strings.Contains(e.Error(), "no events are lost") {
		t.Errorf("got %s", &e)
	}
	e.Last = 0
	if !strings.Contains(e.Error(), "events from 5 on are lost") {
		t.Errorf("got %s", &e)
	}
}

func TestNumberingIsNotRestartedFromNothing(t *testing.T) {
	t.Parallel()
	dir, _, _ := threeSegments(t)
	whole := readFiles(t, dir)
	for name, data := range map[string][]byte{
		"empty":   nil,
		"zeros":   make([]byte, 100),
		"garbage": []byte(noise(1, 40)),
		"much":    []byte(noise(1, 4000)),
	} {
		dir := t.TempDir()
		files{"producer.id": whole["producer.id"], segmentName(3): data}.write(t, dir)
		j, err := journal.Open(journal.Config{Dir: dir})
		if err == nil {
			j.Close()
		}
		if _, ok := errors.AsType[*journal.DamageError](err); !ok {
			t.Errorf("%s: Open: got %v, want a DamageError", name, err)
		}
	}
}

func TestSegmentWithoutItsMarkIsRemoved(t *testing.T) {
	t.Parallel()
	dir, all, _ := threeSegments(t)
	whole := readFiles(t, dir)
	for name, data := range map[string][]byte{
		"empty": nil, "zeros": make([]byte, 40_000), "torn": whole[segmentName(3)][:20],
	} {
		dir := t.TempDir()
		whole.with(segmentName(4), data).write(t, dir)
		j := open(t, journal.Config{Dir: dir})
		events, _, _ := readAll(t, j, 0)
		sameEvents(t, name, events, all)
		if s := j.Segments(); len(s) != 5 {
			t.Errorf("%s: %d segments, want 5", name, len(s))
		}
	}
}

func TestSegmentsThatOverlapAreDamage(t *testing.T) {
	t.Parallel()
	dir, _, ends := threeSegments(t)
	whole := readFiles(t, dir)
	whole.with(segmentName(2), whole[segmentName(1)]).write(t, dir)
	wantDamage(t, dir, journal.DamageError{Dir: dir, Segment: 2, Offset: ends[60], First: 61, Last: 90})
	if _, err := journal.Repair(dir); err != nil {
		t.Fatalf("Repair: %v", err)
	}
	events, _, gap := readAll(t, open(t, journal.Config{Dir: dir}), 0)
	if len(events) != 63 || gap != 30 {
		t.Errorf("%d events and a gap of %d, want 63 and 30", len(events), gap)
	}
}

func TestRefusedRecordFlushedLateIsDisowned(t *testing.T) {
	t.Parallel()
	c := crash(t, 10, "refused")
	dir := t.TempDir()
	whole := c.files[segmentName(0)]
	c.with(segmentName(0), whole[:c.begin]).write(t, dir)
	j := open(t, journal.Config{Dir: dir})
	mustAppend(t, j, "accepted")
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(wlog.SegmentName(dir, 0), whole, 0o600); err != nil {
		t.Fatal(err)
	}
	events, _, gap := readAll(t, open(t, journal.Config{Dir: dir}), 0)
	sameEvents(t, "events", events, append(c.kept, event{4, "accepted"}))
	if gap != 0 {
		t.Errorf("a gap of %d", gap)
	}
}

// removeSegmentsBehind removes the segments with a higher index, what the journal knows of them, and all that is not a file.
func removeSegmentsBehind(t testing.TB, dir string, index int) {
	t.Helper()
	for name := range readFiles(t, dir) {
		if name == "bounds.json" || len(name) == len(segmentName(0)) && name > segmentName(index) {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, sub := range []string{"damaged", "repair.tmp"} {
		if err := os.RemoveAll(filepath.Join(dir, sub)); err != nil {
			t.Fatal(err)
		}
	}
}
