package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"usaged/aggregator/store/redis/redistest"
)

// losses are the ways in which Redis loses what it has acknowledged, while no daemon is restarted.
var losses = []struct {
	name    string
	options []string
	lose    func(t *testing.T, srv *redistest.Server, meanwhile func())
}{
	{"FLUSHALL", nil, func(_ *testing.T, srv *redistest.Server, meanwhile func()) {
		meanwhile()
		srv.Do("FLUSHALL")
	}},
	{"an old snapshot is restored", nil, func(t *testing.T, srv *redistest.Server, meanwhile func()) {
		dump := filepath.Join(srv.Dir, "dump.rdb")
		srv.Do("SAVE")
		old, err := os.ReadFile(dump)
		if err != nil {
			t.Fatal(err)
		}
		meanwhile()
		srv.Do("SAVE")
		_, _ = srv.Call("SHUTDOWN", "NOSAVE") // it closes the connection instead of answering
		if err := os.WriteFile(dump, old, 0o644); err != nil {
			t.Fatal(err)
		}
		srv.Restart()
	}},
	{"the append-only file is truncated", []string{"--appendonly", "yes", "--appendfsync", "always"}, func(t *testing.T, srv *redistest.Server, meanwhile func()) {
		before := appendOnlyFile(t, srv)
		info, err := os.Stat(before)
		if err != nil {
			t.Fatal(err)
		}
		meanwhile()
		srv.Kill()
		if path := appendOnlyFile(t, srv); path != before {
			t.Fatalf("the append-only file was %s and is %s", before, path)
		}
		// In the middle of a transaction, most likely.
		if err := os.Truncate(before, info.Size()-7); err != nil {
			t.Fatal(err)
		}
		srv.Restart()
	}},
}

func appendOnlyFile(t *testing.T, srv *redistest.Server) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(srv.Dir, "appendonlydir", "*.incr.aof"))
	if err != nil || len(files) != 1 {
		t.Fatalf("append-only files %v, %v; want one", files, err)
	}
	return files[0]
}

// TestRedisLosesData loses what Redis has acknowledged: under load, and again when nothing is sent any more. Two daemons
// share the ids of their events. Neither is restarted, no counter falls, and all figures are exact again.
func TestRedisLosesData(t *testing.T) {
	t.Parallel()
	for _, loss := range losses {
		for _, partitions := range []int{1, 16} {
			if !full() && (partitions > 1) != (loss.options == nil) {
				continue // each of the two once
			}
			t.Run(fmt.Sprintf("%s/partitions=%d", loss.name, partitions), func(t *testing.T) {
				t.Parallel()
				srv := redistest.Start(t, loss.options...)
				r := startReplicas(t, 2, srv.URL(), fmt.Sprintf("--redis.partitions=%d", partitions))
				rounds := 1
				if full() {
					rounds = 10
				}
				for range rounds {
					r.accepting(1000)
					r.applying()
					loss.lose(t, srv, func() {
						r.accepting(1000)
						r.applying()
					})
				}
				r.overtake()
				r.load.stop()
				r.exactAgain()
				for i, d := range r.daemons {
					if got := d.metric("usaged_rewinds_total"); got == 0 {
						t.Errorf("daemon %d: usaged_rewinds_total is 0", i)
					}
				}

				loss.lose(t, srv, func() { // the last events go as well, and no new ones come
					r.load.start(seed(t)+1, 1, modesOfReplicas)
					r.accepting(500)
					r.load.stop()
					r.exactAgain()
				})
				took := r.exactAgain() // the daemons have to notice by themselves
				r.exact()
				t.Logf("idle, exact again after %s", took.Round(time.Millisecond))
			})
		}
	}
}

// overtake accepts so much that the counters are exact again. Where two daemons have the same id, and Redis loses the claim
// of the one before the other has looked, the other counts the event as well. The first finds a duplicate when it applies
// the event again, but what its counter has shown it has shown: that stands still until as many new events have come.
func (r *replicas) overtake() {
	r.tb.Helper()
	r.accepting(6000)
}
