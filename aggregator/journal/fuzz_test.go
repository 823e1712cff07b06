package journal_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"usaged/aggregator/journal"
)

// FuzzRecover changes the segments of a journal in arbitrary ways. Whatever is left, opening, repairing and reading
// it must return nothing that was not written, and every event must be returned, reported as missing, or be at the end.
func FuzzRecover(f *testing.F) {
	whole, all := fuzzJournal(f)
	f.Add(true, []byte{0, 0, 10, 4, 1, 2, 3, 4})
	f.Add(false, []byte{0, 1, 200, 2, 0xff, 0xff})
	f.Add(true, []byte{1, 40, 0, 255})
	f.Add(false, []byte{2, 80, 0, 9, 1, 0, 49, 0, 0, 0, 0, 1, 1})
	f.Add(true, []byte{3, 10, 10, 0})
	f.Add(false, []byte{4, 128, 0, 200, 3, 10, 9, 9})
	f.Add(true, []byte{5, 60, 0, 200})
	f.Fuzz(func(t *testing.T, first bool, changes []byte) {
		name := segmentName(1)
		if first {
			name = segmentName(0)
		}
		dir := memoryDir(t)
		whole.with(name, mutate(bytes.Clone(whole[name]), changes)).write(t, dir)
		outside, err := journal.OpenReader(dir)
		if err != nil {
			t.Fatalf("OpenReader: %v", err)
		}
		defer outside.Close()
		events, _, _ := drain(t, outside, 0)
		checkWritten(t, events, all)

		cfg := journal.Config{Dir: dir}
		j, err := journal.Open(cfg)
		if _, damaged := errors.AsType[*journal.DamageError](err); damaged {
			if _, err = journal.Repair(dir); err != nil {
				t.Fatalf("Repair: %v", err)
			}
			j, err = journal.Open(cfg)
		}
		if err != nil {
			t.Fatalf("Open: %v", err)
		}
		defer j.Close()
		events, _, gap := readAll(t, j, 0)
		checkWritten(t, events, all)
		if len(events)+int(gap) != int(j.End()) {
			t.Errorf("%d events and a gap of %d, want %d in all", len(events), gap, j.End())
		}
	})
}

// fuzzJournal returns the files of a journal after a crash, with records of all shapes in two segments.
func fuzzJournal(f *testing.F) (files, map[uint64]string) {
	dir := f.TempDir()
	j := open(f, journal.Config{Dir: dir})
	all := map[uint64]string{}
	for i := range 16 {
		entries := []string{noise(i, 100), strings.Repeat("x", i*50)}
		if i%4 == 3 {
			entries = append(entries, noise(i, 12_000))
		}
		first := mustAppend(f, j, entries...)
		for k, e := range entries {
			all[first+uint64(k)] = e
		}
		if i == 8 {
			roll(f, j)
		}
	}
	return readFiles(f, dir), all
}

func checkWritten(t *testing.T, events []event, all map[uint64]string) {
	t.Helper()
	last := uint64(0)
	for _, e := range events {
		data, ok := all[e.seq]
		if !ok || data != e.data || e.seq <= last {
			t.Fatalf("event %d behind %d is %.40q, want %.40q", e.seq, last, e.data, data)
		}
		last = e.seq
	}
}

// mutate applies up to eight changes of the form (operation, place in 256ths, place in bytes, length, data). Without a
// bound the files would grow with each, and go test gives up on an input that takes a second.
func mutate(data, changes []byte) []byte {
	for n := 0; n < 8 && len(changes) >= 4 && len(data) > 0; n++ {
		op, size := changes[0], int(changes[3])
		at := min(int(changes[1])*len(data)/256+int(changes[2]), len(data)-1)
		changes = changes[4:]
		given := changes[:min(size, len(changes))]
		end := min(at+size*64, len(data))
		switch op % 6 {
		case 0: // overwrite
			changes = changes[copy(data[at:], given):]
		case 1: // delete
			data = append(data[:at], data[end:]...)
		case 2: // insert
			changes = changes[len(given):]
			data = append(data[:at], append(bytes.Clone(given), data[at:]...)...)
		case 3: // cut
			data = data[:at]
		case 4: // repeat
			data = append(data[:end], append(bytes.Clone(data[at:end]), data[end:]...)...)
		case 5: // zeros
			clear(data[at:end])
		}
	}
	return data
}
