package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// noDescriptors lets the daemon open nothing more, neither a file nor a connection, until the function that it returns is
// called. What is open stays open.
func (d *instance) noDescriptors() (restore func()) {
	d.tb.Helper()
	pid := d.run.cmd.Process.Pid
	var before unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &before); err != nil {
		d.tb.Fatal(err)
	}
	none := before
	none.Cur = 0
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &none, nil); err != nil {
		missing(d.tb, "limit the open files of a process: %v: run as root", err)
	}
	return func() {
		if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &before, nil); err != nil {
			d.tb.Fatal(err)
		}
	}
}

// logs waits until the daemon has logged something.
func (d *instance) logs(text string) {
	d.tb.Helper()
	eventually(d.tb, "log "+text, func() error {
		if !strings.Contains(d.log.String(), text) {
			return errors.New("it has not")
		}
		return nil
	})
}

// TestNoDescriptors takes the daemon's descriptors away while it has to read its journal again: because an id is repeated, and
// because the store has lost everything. It reports that, its ledger balances meanwhile, and all figures are exact when there are
// descriptors again.
func TestNoDescriptors(t *testing.T) { onEachStore(t, testNoDescriptors) }

func testNoDescriptors(t *testing.T, s testStore) {
	d := s.instance(t, "--prometheus.enabled=false")
	d.start()
	first, second := `{"user_id":"ann","event_type":"a","id":"1"}`, `{"user_id":"ann","event_type":"a","id":"2"}`
	d.post(first, second)
	d.settle()
	d.post(`{"user_id":"bob","event_type":"a"}`)
	d.settle()
	restore := d.noDescriptors()
	d.post(first, `{"user_id":"ann","event_type":"a","id":"3"}`, second)
	d.logs("the journal cannot be read")
	if l := d.ledger().All; l.Accepted != 6 || l.Damaged > 0 {
		t.Errorf("ledger %+v without descriptors, want 6 accepted and none damaged", l)
	}
	restore()
	want := &figures{Summary: map[string]map[string]uint64{"a": {"ann": 3, "bob": 1}}, Counters: map[string]uint64{"a": 4}}
	expect := func(when string) {
		t.Helper()
		f := d.figures(7)
		same(t, when, &figures{Summary: f.Summary, Counters: f.Counters}, want)
		if wantLedger := (account{Accepted: 6, Counted: 4, Duplicates: 2}); f.Ledger.All != wantLedger {
			t.Errorf("%s: ledger %+v, want %+v", when, f.Ledger.All, wantLedger)
		}
	}
	expect("after an id was repeated without descriptors")
	if s.redis != nil {
		d.moveClocks(50*time.Hour, 0) // only the journal knows which events are duplicates
		restore = d.noDescriptors()
		s.redis.Do("FLUSHALL")
		d.logs("store has lost what was applied to it")
		d.post(`{"user_id":"cy","event_type":"b"}`)
		d.ledger()
		restore()
		eventually(t, "count cy", func() error {
			if l := d.settle().All; l.Counted != 5 {
				return errors.New("not yet")
			}
			return nil
		})
		want.Summary["b"], want.Counters["b"] = map[string]uint64{"cy": 1}, 1
		f := d.figures(7)
		same(t, "after Redis lost everything without descriptors", &figures{Summary: f.Summary, Counters: f.Counters}, want)
	}
	d.stop()
	d.start()
	if s.redis == nil {
		expect("after a restart")
	}
	d.stop()
}
