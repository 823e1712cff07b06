package aggregator_test

import (
	"encoding/binary"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"usaged/aggregator/event"
)

// unscope makes the entries of a batch what older versions wrote: without the two flags that tell the scope of an id.
func unscope(b *event.Batch) {
	for rest := b.Entries; len(rest) > 0; {
		size, n := binary.Uvarint(rest)
		rest = rest[n:]
		rest[0] &^= 8 | 16
		rest = rest[size:]
	}
}

// wantTypes compares the events that the store has counted today, by type.
func wantTypes(t *testing.T, st *faulty, what string, want map[string]uint64) {
	t.Helper()
	settle()
	types, err := st.Types(t.Context(), []event.Day{event.DayOf(time.Now())})
	if err != nil {
		t.Fatal(err)
	}
	for name, n := range want {
		if types[0][name] != n {
			t.Errorf("%s: %d events of type %s are counted, want %d: %v", what, types[0][name], name, n, types[0])
		}
	}
}

func TestIDNamesAnEventOfAUserAndType(t *testing.T) {
	dir := memoryDir(t)
	synctest.Test(t, func(t *testing.T) {
		st, l := newFaulty(1), newLedger()
		d := openDaemon(t, dir, st)
		defer d.close()
		// A person takes the id that a service is going to use, and the service uses it for two steps of a job.
		d.accept(l, sent{ID: "job-1", UserID: "ann", Type: "generate", Bound: true})
		settle()
		d.accept(l, sent{ID: "job-1", UserID: "ann", Type: "generate"}, sent{ID: "job-1", UserID: "ann", Type: "execute"})
		wantTypes(t, st, "a person, then a service", map[string]uint64{"generate": 2, "execute": 1})
		d.accept(l, sent{ID: "job-1", UserID: "ann", Type: "execute"}, sent{ID: "job-1", UserID: "bob", Type: "execute"})
		d.accept(l, sent{ID: "job-1", UserID: "ann", Type: "generate", Bound: true})
		wantTypes(t, st, "all once more, and another user", map[string]uint64{"generate": 2, "execute": 2})
		if wrong := difference(t, l, st, d); wrong != "" {
			t.Error(wrong)
		}
	})
}

func TestUpgradeKeepsIDs(t *testing.T) {
	dir, other := memoryDir(t), memoryDir(t)
	synctest.Test(t, func(t *testing.T) {
		st, l := newFaulty(1), newLedger()
		d := openDaemon(t, dir, st)
		d.close()
		d.cfg.Shared = true
		d.cfg.Dir = filepath.Join(other, "data") // one that is new to this version
		d.open()
		defer d.close()
		d.older = true
		d.accept(l, sent{ID: "counted", UserID: "ann", Type: "chat"})
		wantTypes(t, st, "before the upgrade", map[string]uint64{"chat": 1})
		d.accept(l, sent{ID: "pending", UserID: "ann", Type: "chat"}, sent{ID: "pending of a person", UserID: "ann", Type: "chat"})
		d.older = false
		d.accept(l, sent{ID: "counted", UserID: "ann", Type: "chat"}, sent{ID: "pending", UserID: "ann", Type: "chat"},
			sent{ID: "counted", UserID: "bob", Type: "chat"})
		d.accept(l, sent{ID: "pending of a person", UserID: "ann", Type: "chat", Bound: true})
		wantTypes(t, st, "retries across the upgrade", map[string]uint64{"chat": 4})
		d.accept(l, sent{ID: "counted", UserID: "ann", Type: "chat", Bound: true}, sent{ID: "pending", UserID: "ann", Type: "chat", Bound: true})
		wantTypes(t, st, "retries of a person", map[string]uint64{"chat": 4})

		d.accept(l, sent{ID: "job", UserID: "ann", Type: "generate"}, sent{ID: "job", UserID: "ann", Type: "execute"})
		wantTypes(t, st, "an id that is new", map[string]uint64{"generate": 1, "execute": 1})

		// A replica that is not upgraded yet has an event that was counted here, and one more of its own.
		late := openDaemon(t, filepath.Join(other, "late"), st)
		defer late.close()
		late.older = true
		late.accept(l, sent{ID: "job", UserID: "ann", Type: "generate"}, sent{ID: "own", UserID: "ann", Type: "generate"})
		wantTypes(t, st, "a replica of the older version", map[string]uint64{"generate": 2})
		d.accept(l, sent{ID: "own", UserID: "ann", Type: "generate"})
		wantTypes(t, st, "its event sent here", map[string]uint64{"generate": 2})
	})
}
