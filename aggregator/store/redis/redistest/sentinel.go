package redistest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// MasterName is the name under which Sentinels know the master.
const MasterName = "usage"

// Sentinel is a master with one replica, and three Sentinels that watch over them.
type Sentinel struct {
	// Servers are the two servers; the first one begins as master.
	Servers   []*Server
	Sentinels []*Server
	tb        testing.TB
}

// StartSentinel starts them. args are options of the two servers. A master that is down for a second is replaced.
func StartSentinel(tb testing.TB, args ...string) *Sentinel {
	tb.Helper()
	master := Start(tb, args...)
	host, port, _ := strings.Cut(master.Addr, ":")
	replica := Start(tb, append([]string{"--replicaof", host + " " + port}, args...)...)
	// Fast, and without a fork: tests wait for it.
	for _, s := range []*Server{master, replica} {
		s.Do("CONFIG", "SET", "repl-diskless-sync", "yes")
		s.Do("CONFIG", "SET", "repl-diskless-sync-delay", "0")
	}
	replica.WaitFor("master_link_status:up", "INFO", "replication")
	c := &Sentinel{Servers: []*Server{master, replica}, tb: tb}
	for range 3 {
		c.Sentinels = append(c.Sentinels, c.startSentinel(host, port))
	}
	for _, s := range c.Sentinels {
		s.WaitFor("num-other-sentinels\n2", "SENTINEL", "MASTER", MasterName)
		s.WaitFor("num-slaves\n1", "SENTINEL", "MASTER", MasterName)
	}
	return c
}

func (c *Sentinel) startSentinel(host, port string) *Server {
	c.tb.Helper()
	s := newServer(c.tb)
	s.sentinel = filepath.Join(s.Dir, "sentinel.conf")
	text := fmt.Sprintf("bind 127.0.0.1\nport %s\ndir %s\nsentinel monitor %s %s %s 2\n"+
		"sentinel down-after-milliseconds %s 1000\nsentinel failover-timeout %s 5000\nsentinel parallel-syncs %s 1\n",
		s.Port(), s.Dir, MasterName, host, port, MasterName, MasterName, MasterName)
	if err := os.WriteFile(s.sentinel, []byte(text), 0o644); err != nil {
		c.tb.Fatal(err)
	}
	s.start()
	return s
}

// URL returns the URL that names the Sentinels.
func (c *Sentinel) URL() string {
	var addrs []string
	for _, s := range c.Sentinels {
		addrs = append(addrs, s.Addr)
	}
	return "redis+sentinel://" + strings.Join(addrs, ",") + "/" + MasterName
}

// Master returns the server that the Sentinels take for the master now.
func (c *Sentinel) Master() *Server {
	c.tb.Helper()
	addr := strings.ReplaceAll(c.Sentinels[0].Do("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MasterName), "\n", ":")
	for _, s := range c.Servers {
		if s.Addr == addr {
			return s
		}
	}
	c.tb.Fatalf("the Sentinels name %s, which is no server of ours", addr)
	return nil
}

// WaitForMaster waits until a server other than old is master.
func (c *Sentinel) WaitForMaster(old *Server) *Server {
	c.tb.Helper()
	var now *Server
	Eventually(c.tb, func() bool {
		now = c.Master()
		if now == old {
			return false
		}
		role, err := now.Call("ROLE")
		return err == nil && strings.HasPrefix(role, "master")
	}, func() string {
		return "no other master; the first Sentinel's log ends with\n" + c.Sentinels[0].logTail()
	})
	return now
}
