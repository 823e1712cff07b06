package redistest

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// slots is the number of hash slots of a cluster.
const slots = 16384

// Cluster is a Redis Cluster of three masters with one replica each.
type Cluster struct {
	// Nodes are the servers, the first three of which begin as masters; Nodes[i+3] is the replica of Nodes[i].
	Nodes []*Server
	tb    testing.TB
}

// StartCluster starts one. args are options of each server. A master that is down for two seconds is replaced.
func StartCluster(tb testing.TB, args ...string) *Cluster {
	tb.Helper()
	const masters = 3
	c := &Cluster{tb: tb}
	for range 2 * masters {
		c.Nodes = append(c.Nodes, Start(tb, append([]string{
			"--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-node-timeout", "2000",
			"--cluster-replica-validity-factor", "0", "--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0",
		}, args...)...))
	}
	for i, n := range c.Nodes {
		n.Do("CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(i+1))
		if i > 0 {
			n.Do("CLUSTER", "MEET", "127.0.0.1", c.Nodes[0].Port())
		}
	}
	for i := range masters {
		c.Nodes[i].Do("CLUSTER", "ADDSLOTSRANGE", strconv.Itoa(slots*i/masters), strconv.Itoa(slots*(i+1)/masters-1))
	}
	for _, n := range c.Nodes {
		n.WaitFor(fmt.Sprintf("cluster_known_nodes:%d", len(c.Nodes)), "CLUSTER", "INFO")
	}
	for i := range masters {
		replica := c.Nodes[i+masters]
		id := c.Nodes[i].Do("CLUSTER", "MYID")
		replica.WaitFor(id, "CLUSTER", "NODES")
		replica.Do("CLUSTER", "REPLICATE", id)
	}
	for _, n := range c.Nodes {
		n.WaitFor("cluster_state:ok", "CLUSTER", "INFO")
	}
	for _, n := range c.Nodes[masters:] {
		n.WaitFor("master_link_status:up", "INFO", "replication")
	}
	return c
}

// URL returns the cluster's URL.
func (c *Cluster) URL() string {
	var addrs []string
	for _, n := range c.Nodes {
		addrs = append(addrs, n.Addr)
	}
	return "redis+cluster://" + strings.Join(addrs, ",")
}

// Masters returns the servers that are masters and alive.
func (c *Cluster) Masters() []*Server {
	var masters []*Server
	for _, n := range c.Nodes {
		if role, err := n.Call("ROLE"); err == nil && strings.HasPrefix(role, "master") {
			masters = append(masters, n)
		}
	}
	return masters
}

// Flush empties the cluster.
func (c *Cluster) Flush() {
	c.tb.Helper()
	for _, n := range c.Masters() {
		n.Do("FLUSHALL")
	}
}

// WaitHealthy waits until every node that is alive finds all slots served.
func (c *Cluster) WaitHealthy() {
	c.tb.Helper()
	for _, n := range c.Nodes {
		if n.process != nil {
			n.WaitFor("cluster_state:ok", "CLUSTER", "INFO")
		}
	}
}

// SlotOf returns the slot of a key.
func (c *Cluster) SlotOf(key string) int {
	c.tb.Helper()
	slot, err := strconv.Atoi(c.Nodes[0].Do("CLUSTER", "KEYSLOT", key))
	if err != nil {
		c.tb.Fatal(err)
	}
	return slot
}

// Owner returns the master of a slot.
func (c *Cluster) Owner(slot int) *Server {
	c.tb.Helper()
	for _, n := range c.Masters() {
		for _, line := range strings.Split(n.Do("CLUSTER", "NODES"), "\n") {
			if strings.Contains(line, "myself") && serves(strings.Fields(line)[8:], slot) {
				return n
			}
		}
	}
	c.tb.Fatalf("no master serves slot %d", slot)
	return nil
}

func serves(ranges []string, slot int) bool {
	for _, r := range ranges {
		from, to, isRange := strings.Cut(r, "-")
		if !isRange {
			to = from
		}
		a, err := strconv.Atoi(from)
		b, err2 := strconv.Atoi(to)
		if err == nil && err2 == nil && a <= slot && slot <= b {
			return true
		}
	}
	return false
}

// Move moves a slot with its keys to another master, as redis-cli --cluster reshard does.
func (c *Cluster) Move(slot int, to *Server) {
	c.tb.Helper()
	from, text := c.Owner(slot), strconv.Itoa(slot)
	if from == to {
		return
	}
	fromID, toID := from.Do("CLUSTER", "MYID"), to.Do("CLUSTER", "MYID")
	to.Do("CLUSTER", "SETSLOT", text, "IMPORTING", fromID)
	from.Do("CLUSTER", "SETSLOT", text, "MIGRATING", toID)
	for {
		keys := from.Do("CLUSTER", "GETKEYSINSLOT", text, "10")
		if keys == "" {
			break
		}
		args := []string{"MIGRATE", "127.0.0.1", to.Port(), "", "0", "5000", "KEYS"}
		from.Do(append(args, strings.Split(keys, "\n")...)...)
	}
	for _, n := range []*Server{to, from} {
		n.Do("CLUSTER", "SETSLOT", text, "NODE", toID)
	}
	for _, n := range c.Masters() {
		n.Do("CLUSTER", "SETSLOT", text, "NODE", toID)
	}
}
