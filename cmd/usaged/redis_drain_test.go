package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"usaged/aggregator/store/redis/redistest"
)

// drainReport is the answer of usagectl journal drain --output=json.
type drainReport struct {
	Events, Counted, Duplicates, Sent, Refused uint64

	Complete bool
}

// TestDrainOnRedis lets a daemon die with events that Redis has not seen, and drains them to another one, in a run that is killed
// when its second batch was accepted and not answered, and in one that ends. Each event is counted once, also those that the
// other daemon had accepted too, and the dead one counts nothing when it comes back.
func TestDrainOnRedis(t *testing.T) {
	t.Parallel()
	for _, partitions := range []int{1, 16} {
		t.Run(fmt.Sprintf("partitions=%d", partitions), func(t *testing.T) {
			t.Parallel()
			testDrainOnRedis(t, partitions)
		})
	}
}

func testDrainOnRedis(t *testing.T, partitions int) {
	const (
		batch    = 5000 // of the drain
		counted  = 300
		both     = 70 // that both daemons accept
		repeated = 150
	)
	srv := redistest.Start(t)
	proxy := redistest.StartProxy(t, srv.Addr)
	flag := fmt.Sprintf("--redis.partitions=%d", partitions)
	dead, live := newRedisInstance(t, proxy.URL(), flag), newRedisInstance(t, srv.URL(), flag)
	dead.start()
	live.start()
	want, remaining := map[string]map[string]uint64{}, uint64(0)
	dead.post(drainEvents(want, "counted", repeated, counted-repeated)...)
	dead.settle()

	proxy.Refuse(true) // Redis sees no more of it
	for _, eventType := range []string{"first", "second", "third"} {
		dead.post(drainEvents(want, eventType, 3000, 3000)...)
		remaining += 6000
	}
	shared := drainEvents(want, "shared", both, 0)
	dead.post(shared...)
	live.post(shared...)
	dead.post(drainEvents(map[string]map[string]uint64{}, "counted", repeated, 0)...)
	dead.kill()
	proxy.Refuse(false)

	gate := startGate(t, live, 2)
	interrupted := spawn(t, live.usagectlCommand("journal", "drain", dead.dir, "--redis.url="+srv.URL(), "--yes", "--url="+gate.url, live.adminToken()))
	select {
	case <-gate.reached:
	case <-interrupted.exited:
		t.Fatalf("the drain exits with %d before its second batch", interrupted.code)
	}
	if err := interrupted.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-interrupted.exited
	if got := live.settle().All.Accepted; got != both+2*batch {
		t.Errorf("two batches were drained, and the live daemon has accepted %d events, want %d", got, both+2*batch)
	}
	wantReport := drainReport{Events: remaining + both, Counted: counted, Duplicates: repeated, Sent: remaining + both, Complete: true}
	for range 2 { // the second time there is nothing to be done
		if got := live.drain(dead, srv); got != wantReport {
			t.Errorf("drained: %+v, want %+v", got, wantReport)
		}
	}
	all := account{Accepted: remaining + 2*both + batch, Counted: remaining + both, Duplicates: both + batch}
	check := func(when string) {
		t.Helper()
		if got := live.settle().All; got != all {
			t.Errorf("%s: ledger %+v, want %+v", when, got, all)
		}
		if diff := cmp.Diff(want, live.summary(7)); diff != "" {
			t.Errorf("%s: summary (-want +got):\n%.2000s", when, diff)
		}
	}
	check("drained")
	dead.launch()
	if code := dead.wait(); code != 1 || !strings.Contains(dead.log.String(), "journal drain") {
		t.Errorf("a drained directory starts: exit code %d\n%s", code, dead.log)
	}
	live.kill()
	live.start()
	check("the dead one came back")
}

// drainEvents makes events, first those with ids, and adds them to what is wanted: type → user → events.
func drainEvents(want map[string]map[string]uint64, eventType string, ids, noIDs int) (lines []string) {
	want[eventType] = map[string]uint64{}
	for i := range ids + noIDs {
		user, id := fmt.Sprintf("u%d", i%23), ""
		if i < ids {
			id = fmt.Sprintf(`"id":"%s-%d",`, eventType, i)
		}
		lines = append(lines, fmt.Sprintf(`{%s"event_type":%q,"user_id":%q}`, id, eventType, user))
		want[eventType][user]++
	}
	return lines
}

// drain sends what a dead daemon has left to this one.
func (d *instance) drain(dead *instance, srv *redistest.Server) (report drainReport) {
	d.tb.Helper()
	r := d.usagectl("journal", "drain", dead.dir, "--redis.url="+srv.URL(), "--yes", "--output=json")
	if r.code != 0 {
		d.tb.Fatalf("drain: exit code %d, %s", r.code, r.stderr)
	}
	if err := json.Unmarshal([]byte(r.stdout), &report); err != nil {
		d.tb.Fatal(err)
	}
	return report
}
