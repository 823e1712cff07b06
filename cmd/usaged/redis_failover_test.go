package main

import (
	"fmt"
	"testing"
	"time"

	"usaged/aggregator/store"
	"usaged/aggregator/store/redis/redistest"
)

// failoverDeadline bounds how long nothing may be applied after a failover. It is generous: the log has the times.
const failoverDeadline = time.Minute

// TestRedisSentinel lets the Sentinels replace a master whose last acknowledged writes its replica lacks.
func TestRedisSentinel(t *testing.T) {
	t.Parallel()
	c := redistest.StartSentinel(t)
	r := startReplicas(t, 2, c.URL(), "--redis.partitions=2")
	failovers := 1
	if full() {
		failovers = 4
	}
	for i := range failovers {
		if i > 0 { // all are there again
			restoreReplication(c.Servers)
			dead := c.Servers[(i-1)%2]
			dead.Restart()
			dead.WaitFor("master_link_status:up", "INFO", "replication")
		}
		r.accepting(1000)
		master := c.Master()
		cutReplication(c.Servers, master)
		rewinds := r.rewinds()
		r.accepting(1000)
		r.applying() // to be rolled back
		r.failover(master, func() { c.WaitForMaster(master) })
		if r.rewinds() == rewinds {
			t.Error("the failover rolled nothing back")
		}
	}
	r.overtake()
	r.exact()
}

// TestRedisCluster moves slots and kills a master of a cluster whose last acknowledged writes its replica lacks.
func TestRedisCluster(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t)
	r := startReplicas(t, 2, c.URL())
	r.accepting(1000)
	r.applying()

	moves := 4
	if full() {
		moves = 16 // the partitions of a cluster, by default
	}
	for i := range moves {
		masters := c.Masters()
		c.Move(c.SlotOf(fmt.Sprintf("{p%d}", i)), masters[i%len(masters)])
	}
	r.accepting(500)
	t.Logf("%d slots moved; applied again within %s", moves, r.applying().Round(time.Millisecond))

	victims := []int{0}
	if full() {
		victims = []int{0, 1, 2}
	}
	for _, i := range victims {
		master := c.Nodes[i]
		cutReplication(c.Nodes, master)
		rewinds := r.rewinds()
		r.accepting(1000)
		r.applying()
		r.failover(master, func() {})
		restoreReplication(c.Nodes)
		master.Restart()
		c.WaitHealthy()
		if r.rewinds() == rewinds {
			t.Error("the failover rolled nothing back")
		}
	}
	r.overtake()
	r.exact()
}

// TestRedisClusterHangs lets one master of a cluster hang that nobody replaces. The partitions of the others go on: each round of
// events is applied before the next is sent, while calls of the one that hangs are still under way.
func TestRedisClusterHangs(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t)
	for _, n := range c.Nodes {
		n.Do("CONFIG", "SET", "cluster-require-full-coverage", "no")
		n.Do("CONFIG", "SET", "cluster-node-timeout", "120000")
	}
	const partitions, users = 16, 64
	rounds := 100
	if full() {
		rounds = 400
	}
	var lines []string
	hung, hungPartitions, want := 0, map[int]bool{}, map[string]uint64{}
	for i := range users {
		user := fmt.Sprintf("user %d", i)
		if n := store.PartitionOf([]byte(user), partitions); c.Owner(c.SlotOf(fmt.Sprintf("{p%d}", n))) == c.Nodes[1] {
			hung++
			hungPartitions[n] = true
		}
		lines = append(lines, fmt.Sprintf(`{"event_type":"a","user_id":%q}`, user))
		want[user] = uint64(rounds) + 1
	}
	if hung == 0 || hung == users {
		t.Fatalf("%d of %d users are on the master that is to hang", hung, users)
	}
	d := newRedisInstance(t, c.URL())
	d.start()
	d.post(lines...)
	d.settle()
	const applied, failures = "usaged_applied_events_total", "usaged_store_errors_total"
	goal, failed := d.metric(applied), d.metric(failures)
	c.Nodes[1].Hang()
	longest, began := time.Duration(0), time.Now()
	for range rounds {
		d.post(lines...)
		sent := time.Now()
		goal += float64(users - hung)
		eventually(t, "the other partitions apply", func() error {
			if got := d.metric(applied); got != goal {
				return fmt.Errorf("%v events, want %v", got, goal)
			}
			return nil
		})
		longest = max(longest, time.Since(sent))
	}
	took := time.Since(began)
	if failed = d.metric(failures) - failed; failed >= float64(rounds*len(hungPartitions)) {
		t.Errorf("%v calls failed in %d rounds: the others have waited for them", failed, rounds)
	}
	if l := d.ledger(); l.All.Pending != uint64(rounds*hung) {
		t.Errorf("%+v, want the %d events pending of the master that hangs", l.All, rounds*hung)
	}
	c.Nodes[1].Continue()
	began = time.Now()
	d.waitForCounts(want, users*uint64(rounds+1))
	t.Logf("%d rounds in %s while a third of the partitions hung, the longest %s, %v calls failed; exact %s after the end",
		rounds, took.Round(time.Millisecond), longest.Round(time.Millisecond), failed, time.Since(began).Round(time.Millisecond))
}

// failover kills a master and waits until the daemons have applied what they had accepted after that.
func (r *replicas) failover(master *redistest.Server, replaced func()) {
	r.tb.Helper()
	began := time.Now()
	master.Kill()
	r.accepting(500)
	replaced()
	promoted := time.Since(began)
	r.applying()
	took := time.Since(began)
	r.tb.Logf("a new master after %s at most, everything applied %s after the kill", promoted.Round(time.Millisecond), took.Round(time.Millisecond))
	if took > failoverDeadline {
		r.tb.Errorf("applied after %s, want less than %s", took, failoverDeadline)
	}
}

// rewinds is how often the daemons have found that the store had lost something.
func (r *replicas) rewinds() (sum float64) {
	r.tb.Helper()
	for _, d := range r.daemons {
		sum += d.metric("usaged_rewinds_total")
	}
	return sum
}

// cutReplication lets a master lose its replicas, and go on alone.
func cutReplication(servers []*redistest.Server, master *redistest.Server) {
	for _, s := range servers {
		if s != master {
			_, _ = s.Call("CONFIG", "SET", "masterauth", "wrong") // one may be down
		}
	}
	master.Do("CLIENT", "KILL", "TYPE", "replica")
}

func restoreReplication(servers []*redistest.Server) {
	for _, s := range servers {
		_, _ = s.Call("CONFIG", "SET", "masterauth", "") // one may be down
	}
}
