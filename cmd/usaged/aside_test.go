package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"usaged/aggregator/aside"
)

// TestWhatEventsDoNotNeedIsSetAside damages each file that only Prometheus, remote write, backfills or quiet times need, in several
// ways. Events are accepted and counted, and a metric says what was set aside.
func TestWhatEventsDoNotNeedIsSetAside(t *testing.T) {
	t.Parallel()
	garbage := func(path string) error {
		return errors.Join(os.RemoveAll(path), os.MkdirAll(filepath.Dir(path), 0o750), os.WriteFile(path, []byte("{\xff"), 0o600))
	}
	directory := func(path string) error {
		return errors.Join(os.RemoveAll(path), os.MkdirAll(path, 0o750))
	}
	d := newInstance(t, "--remote-write.url=http://127.0.0.1:1/", prometheusFile(t, fastScrapes))
	d.start()
	accepted := 1
	d.post(`{"event_type":"a","user_id":"u"}`)
	d.settle()
	d.becomes(`usage_events_total{event_type="a"}`, "1")
	d.stop()
	cursors, err := filepath.Glob(filepath.Join(d.dir, "remote-write", "*.json"))
	if err != nil || len(cursors) != 1 {
		t.Fatalf("cursors are %q, %v; want one", cursors, err)
	}
	cursor, err := filepath.Rel(d.dir, cursors[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		what, path string
		damage     func(string) error
	}{
		{aside.TSDB, "tsdb", garbage},
		{aside.TSDB, "tsdb/wal", garbage},
		{aside.Backfill, "tsdb/backfill.json", garbage},
		{aside.Backfill, "tsdb/backfill.json", directory},
		{aside.RemoteWrite, "remote-write", garbage},
		{aside.RemoteWrite, cursor, garbage},
		{aside.RemoteWrite, cursor, directory},
		{aside.QuietTimes, "quiet.json", garbage},
		{aside.QuietTimes, "quiet.json", directory},
		{aside.Database, "usage.db", flipEachPage},
	} {
		if err := tc.damage(filepath.Join(d.dir, tc.path)); err != nil {
			t.Fatal(err)
		}
		d.start()
		d.post(`{"event_type":"a","user_id":"u"}`)
		accepted++
		d.settle()
		d.becomes(`usage_events_total{event_type="a"}`, fmt.Sprint(accepted))
		if n := d.metric(fmt.Sprintf("usaged_set_aside_total{what=%q}", tc.what)); n < 1 {
			t.Errorf("%s damaged: %v times set aside, want it counted", tc.path, n)
		}
		d.stop()
	}
}

// flipEachPage flips a bit in each page of a file.
func flipEachPage(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for at := 2000; at < len(data); at += 4096 {
		data[at] ^= 1
	}
	return os.WriteFile(path, data, 0o644)
}
