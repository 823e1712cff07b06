package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"usaged/aggregator/store/redis/redistest"
)

// listed returns the other producers that a daemon's ledger shows.
func (d *instance) listed() (ids []string) {
	d.tb.Helper()
	var l struct {
		Others      []struct{ ID string }
		OthersStale bool `json:"others_stale"`
	}
	d.getJSON("/api/v1/usage/ledger", &l)
	if l.OthersStale {
		d.tb.Error("the others are stale while Redis is there")
	}
	for _, p := range l.Others {
		ids = append(ids, p.ID)
	}
	return ids
}

// own returns the ids of a daemon's data directory, oldest first.
func (d *instance) own() []string {
	d.tb.Helper()
	var l struct{ Producers []string }
	d.getJSON("/api/v1/usage/ledger", &l)
	return l.Producers
}

func (d *instance) prune(url, id string) {
	d.tb.Helper()
	if r := d.usagectl("producers", "prune", "--force", "--redis.url="+url, id); r.code != 0 {
		d.tb.Fatalf("prune: exit code %d: %s", r.code, r.stderr)
	}
}

// TestRedisPrunedComesBack prunes producers whose data directory is in use after all. It counts on where it was: nothing is
// counted twice, and no total is lost.
func TestRedisPrunedComesBack(t *testing.T) {
	t.Parallel()
	for _, partitions := range []int{1, 16} {
		t.Run(fmt.Sprintf("partitions=%d", partitions), func(t *testing.T) {
			t.Parallel()
			srv := startPartitioned(t, partitions)
			want := map[string]uint64{}
			d := newRedisInstance(t, srv.URL())
			d.start()
			d.postEach(want, "ann", "bob")
			d.settle()
			d.kill()
			restored := twin(t, d, srv.URL())
			d.start()
			d.postEach(want, "ann", "cy")
			d.settle()
			d.kill()
			// A copy from before counts under a second id, beside the first.
			restored.start()
			restored.postEach(want, "ann", "bob", "eve")
			waitForUsers(t, want, restored)
			before := restored.settle()
			ids := restored.own()
			if len(ids) != 2 {
				t.Fatalf("producers %q, want two", ids)
			}

			other := newRedisInstance(t, srv.URL())
			other.start()
			other.postEach(want, "ann")
			waitForUsers(t, want, other)
			if got := other.listed(); !slices.Equal(got, ids) {
				t.Fatalf("the other lists %q, want %q", got, ids)
			}
			restored.stop()
			for _, id := range ids {
				other.prune(srv.URL(), id)
			}
			if got := other.listed(); len(got) > 0 {
				t.Errorf("after pruning the other lists %q", got)
			}
			waitForUsers(t, want, other)

			restored.start()
			restored.postEach(want, "ann", "eve")
			waitForUsers(t, want, restored, other)
			after := restored.settle()
			if after.All.Counted != before.All.Counted+2 || after.All.Duplicates != 0 {
				t.Errorf("ledger %+v, before %+v; want two more counted", after.All, before.All)
			}
			eventually(t, "it is listed again", func() error {
				if got := other.listed(); !slices.Contains(got, ids[1]) {
					return fmt.Errorf("%q", got)
				}
				return nil
			})
		})
	}
}

// TestRedisAwayLedger reads the ledger while Redis is away: the daemon's own accounts, and the others as they were.
func TestRedisAwayLedger(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	d, other := newRedisInstance(t, srv.URL()), newRedisInstance(t, srv.URL())
	for _, d := range []*instance{d, other} {
		d.start()
		d.post(`{"event_type":"a","user_id":"ann"}`, `{"event_type":"a","user_id":"bob"}`)
		d.settle()
	}
	eventually(t, "the other is listed", func() error {
		if got := d.listed(); !slices.Equal(got, other.own()) {
			return fmt.Errorf("%q", got)
		}
		return nil
	})
	for _, away := range []struct {
		name       string
		stop, back func()
	}{{"hangs", srv.Hang, srv.Continue}, {"is gone", srv.Kill, func() {}}} {
		away.stop()
		d.post(`{"event_type":"a","user_id":"ann"}`)
		body, err := d.try("/api/v1/usage/ledger", "admin")
		if err != nil {
			t.Fatalf("Redis %s: %v", away.name, err)
		}
		var l struct {
			All         account
			Others      []account
			OthersStale bool `json:"others_stale"`
		}
		if err := json.Unmarshal(body, &l); err != nil {
			t.Fatal(err)
		}
		if !l.OthersStale || len(l.Others) != 1 || l.Others[0].Counted != 2 || l.All.Pending == 0 || l.All.balance() != nil {
			t.Errorf("Redis %s: %s", away.name, body)
		}
		away.back()
		if away.name == "hangs" {
			d.settle()
		}
	}
}
