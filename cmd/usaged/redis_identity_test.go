package main

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"usaged/aggregator/durable"
	"usaged/aggregator/store/redis/redistest"
)

// twin is a daemon that runs on a copy of another's data directory.
func twin(t *testing.T, d *instance, url string) *instance {
	t.Helper()
	return instanceIn(t, copyDir(t, d.dir), "--redis.url="+url)
}

// blockTwin is a daemon that runs on a block-level copy of another's disk: nothing in it tells that it is a copy.
func blockTwin(t *testing.T, d *instance, url string) *instance {
	t.Helper()
	dir := copyDir(t, d.dir)
	format := durable.Format{Version: 2}
	for _, name := range []string{"producer.json", "journal/identity.json"} {
		path := filepath.Join(dir, name)
		var content map[string]any
		if _, err := format.LoadJSON(path, &content); err != nil {
			t.Fatal(err)
		}
		err := format.SaveMade(path, 0o640, func(f *os.File) (any, error) {
			place, err := durable.Place(f)
			content["place"] = place
			return content, err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return instanceIn(t, dir, "--redis.url="+url)
}

// waitForUsers waits until each of daemons shows how many events of type "a" users have.
func waitForUsers(t *testing.T, want map[string]uint64, daemons ...*instance) {
	t.Helper()
	for _, d := range daemons {
		eventually(t, "counts", func() error {
			f, err := d.tryStored(7)
			if err != nil {
				return err
			}
			if got := f.Summary["a"]; fmt.Sprint(got) != fmt.Sprint(want) {
				return fmt.Errorf("in %s: %v, want %v", filepath.Base(d.dir), got, want)
			}
			return nil
		})
	}
}

// postEach posts an event of type "a" of each user.
func (d *instance) postEach(want map[string]uint64, users ...string) {
	d.tb.Helper()
	var lines []string
	for _, user := range users {
		lines = append(lines, fmt.Sprintf(`{"event_type":"a","user_id":%q}`, user))
		want[user]++
	}
	d.post(lines...)
}

// TestRedisClonedDirectory runs a daemon beside another on a block-level copy of its disk: the first is fenced, goes on
// accepting, and counts under a new id when it is restarted.
func TestRedisClonedDirectory(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name          string
		pause, resume func(*instance)
	}{
		{"it fences the daemon that was there first", func(*instance) {}, func(*instance) {}},
		{"it fences a process that was slow", func(d *instance) { d.signal(syscall.SIGSTOP) }, func(d *instance) { d.signal(syscall.SIGCONT) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			srv := redistest.Start(t)
			want := map[string]uint64{}
			first := newRedisInstance(t, srv.URL())
			first.start()
			first.postEach(want, "ann", "bob")
			first.settle()
			tc.pause(first)
			second := blockTwin(t, first, srv.URL())
			second.start()
			second.postEach(want, "bob", "cy")
			second.settle()
			tc.resume(first)
			first.postEach(want, "ann", "dee")
			eventually(t, "the first is fenced", func() error {
				if got := first.metric("usaged_fenced"); got != 1 {
					return fmt.Errorf("usaged_fenced is %v", got)
				}
				return nil
			})
			first.postEach(want, "ann") // still taken
			first.stop()
			first.start()
			first.postEach(want, "eve")
			second.postEach(want, "eve")
			waitForUsers(t, want, first, second)
			for _, d := range []*instance{first, second} {
				d.settle()
				if got := d.metric("usaged_fenced"); got != 0 {
					t.Errorf("usaged_fenced of %s is %v at the end, want 0", d.dir, got)
				}
				d.stop()
				d.start()
				d.postEach(want, "ann")
				waitForUsers(t, want, d)
			}
		})
	}
}

// TestRedisRestoredDirectory starts a daemon on an old copy of its data directory: what it accepts counts under a new id,
// whatever numbers the lost events had.
func TestRedisRestoredDirectory(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	want := map[string]uint64{}
	d := newRedisInstance(t, srv.URL())
	d.start()
	d.postEach(want, "ann", "bob")
	d.settle()
	d.kill()
	restored := twin(t, d, srv.URL())
	d.start()
	d.postEach(want, "ann", "cy", "dee", "ann", "cy")
	d.settle()
	d.kill()

	restored.start()
	eventually(t, "usaged_store_ahead", func() error {
		if got := restored.metric("usaged_store_ahead"); got != 1 {
			return fmt.Errorf("it is %v", got)
		}
		return nil
	})
	for range 2 {
		restored.postEach(want, "ann", "bob", "eve")
		waitForUsers(t, want, restored)
		restored.kill()
		restored.start()
	}
	restored.settle()
	if got := restored.metric("usaged_store_ahead"); got != 0 {
		t.Errorf("usaged_store_ahead is %v under the new id, want 0", got)
	}
}

// TestRedisCopiedDirectory runs a daemon beside another on a copy of its data directory, with a backlog that both have: neither
// keeps the other from counting, and what both have counts once.
func TestRedisCopiedDirectory(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	want := map[string]uint64{}
	first := newRedisInstance(t, srv.URL())
	first.start()
	first.postEach(want, "ann", "bob")
	first.settle()
	srv.Hang()
	first.postEach(want, "ann", "cy") // not counted yet
	first.kill()
	second := twin(t, first, srv.URL())
	first.start()
	second.start()
	first.postEach(want, "dee")
	second.postEach(want, "dee", "eve")
	first.kill() // before it has met Redis
	first.start()
	first.postEach(want, "ann")
	srv.Continue()
	for range 2 {
		waitForUsers(t, want, first, second)
		for _, d := range []*instance{first, second} {
			d.settle()
			if got := d.metric("usaged_fenced"); got != 0 {
				t.Errorf("usaged_fenced of %s is %v, want 0", d.dir, got)
			}
			d.kill()
			d.start()
			d.postEach(want, "bob")
		}
	}
}

// TestRedisRestoredDirectoryRestartsUnmet restores an old copy of a data directory while Redis is away, and restarts the daemon
// before Redis is back: what it accepted before and after the restart counts.
func TestRedisRestoredDirectoryRestartsUnmet(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		copy func(*testing.T, *instance, string) *instance
	}{{"files", twin}, {"blocks", blockTwin}} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			srv := redistest.Start(t)
			want := map[string]uint64{}
			d := newRedisInstance(t, srv.URL())
			d.start()
			d.postEach(want, "ann", "bob")
			d.settle()
			d.stop()
			restored := tc.copy(t, d, srv.URL())
			d.start()
			d.postEach(want, "ann", "cy", "dee", "ann", "cy") // lost with the disk, and counted
			d.settle()
			d.kill()
			srv.Hang()
			restored.start()
			restored.postEach(want, "eve", "ann", "bob")
			restored.kill()
			restored.start()
			restored.postEach(want, "fay")
			srv.Continue()
			waitForUsers(t, want, restored)
			restored.settle()
			if acc := restored.ledger().All; acc.Pending != 0 || acc.Accepted != acc.Counted {
				t.Errorf("accounts %+v", acc)
			}
		})
	}
}

// TestRedisFencedUnnoticed has a block-level copy take over while the first daemon is frozen, and kills the first before it has
// noticed: what it accepted meanwhile counts.
func TestRedisFencedUnnoticed(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	want := map[string]uint64{}
	first := newRedisInstance(t, srv.URL())
	first.start()
	first.postEach(want, "ann", "bob")
	first.settle()
	first.signal(syscall.SIGSTOP)
	second := blockTwin(t, first, srv.URL())
	second.start()
	second.postEach(want, "cy", "cy", "cy")
	second.settle()
	srv.Hang() // so that the first cannot notice
	first.signal(syscall.SIGCONT)
	first.postEach(want, "dee", "dee", "dee", "dee")
	first.kill()
	srv.Continue()
	first.start()
	first.postEach(want, "eve")
	waitForUsers(t, want, first, second)
	if got := first.metric("usaged_doubtful_events_total"); got < 4 {
		t.Errorf("usaged_doubtful_events_total is %v, want the 4 at least that the other could have had in its journal too", got)
	}
}
