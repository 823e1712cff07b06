package main

import (
	"fmt"
	"testing"
	"time"

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

// TestRedisClusterHangs lets one master of a cluster hang that nobody replaces. The partitions of the others go on.
func TestRedisClusterHangs(t *testing.T) {
	if !full() {
		t.Skipf("takes a minute; set %s=1", fullEnv)
	}
	c := redistest.StartCluster(t)
	for _, n := range c.Nodes {
		n.Do("CONFIG", "SET", "cluster-require-full-coverage", "no")
		n.Do("CONFIG", "SET", "cluster-node-timeout", "120000")
	}
	r := startReplicas(t, 1, c.URL())
	r.accepting(1000)
	r.applying()
	const applied = "usaged_applied_events_total"
	d := r.daemons[0]
	c.Nodes[1].Hang()
	began := time.Now()
	longest, before, at := time.Duration(0), d.metric(applied), began
	for time.Since(began) < time.Minute {
		pass(50 * time.Millisecond)
		if n := d.metric(applied); n > before {
			longest, before, at = max(longest, time.Since(at)), n, time.Now()
		}
	}
	c.Nodes[1].Continue()
	r.exact()
	t.Logf("while a third of the partitions hung, the others stood still for %s at most", max(longest, began.Add(time.Minute).Sub(at)).Round(time.Millisecond))
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
