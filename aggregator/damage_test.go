package aggregator_test

import (
	"errors"
	"io"
	"os"
	"testing"

	"usaged/aggregator/journal"
)

// damage flips a byte inside the record of the events 2 and 3 of a closed journal's segment.
func damage(t *testing.T, segment string) {
	t.Helper()
	data, err := os.ReadFile(segment)
	if err != nil {
		t.Fatal(err)
	}
	// The second record of events is the only one with the user "lost".
	for i := range len(data) - 4 {
		if string(data[i:i+4]) == "lost" {
			data[i] ^= 0x20
			if err := os.WriteFile(segment, data, 0o644); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("%s does not hold the record", segment)
}

func repair(t *testing.T, dir string) {
	t.Helper()
	if _, err := journal.Open(journal.Config{Dir: dir}); err == nil {
		t.Fatal("a damaged journal was opened")
	} else if _, ok := errors.AsType[*journal.DamageError](err); !ok {
		t.Fatalf("open: %v", err)
	}
	done, err := journal.Repair(dir)
	if err != nil || len(done) != 1 {
		t.Fatalf("repair: %+v, %v", done, err)
	}
	r, err := journal.OpenReader(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for {
		if _, err := r.Next(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}
