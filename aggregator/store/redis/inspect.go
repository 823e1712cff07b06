package redis

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	client "github.com/redis/go-redis/v9"
)

// Inspector looks at a Redis for its operator. It needs no store to have been there, and changes nothing but by [Inspector.Prune].
// Its errors are as those of a Store: they say what to do, and hold no credentials.
type Inspector struct {
	target *target
	client client.UniversalClient
}

// InspectorACL returns the rules that a Redis user needs beside those of [ACL] to do all that an Inspector does. Without one of
// them, the method that wants it returns an [Error] of class NoPermission; without +config|get only Node.Save and
// Node.AppendFsync stay empty.
func InspectorACL() []string {
	return []string{
		"+scan", "+ttl", "+memory|usage", "+config|get", // what usagectl doctor reads
		"+object|idletime", "+srem", // usagectl producers prune
	}
}

// OpenInspector returns an Inspector. Of cfg it takes URL, PasswordFile and TLS. It fails where those are wrong, not where Redis
// isn't there.
func OpenInspector(cfg Config) (*Inspector, error) {
	t, err := parseURL(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("open Redis: %w", err)
	}
	c, err := newClient(t, cfg)
	if err != nil {
		return nil, fmt.Errorf("open Redis: %w", err)
	}
	return &Inspector{target: t, client: c}, nil
}

// Close closes the connections.
func (i *Inspector) Close() error { return i.client.Close() }

// String is the URL without credentials.
func (i *Inspector) String() string { return i.target.String() }

// Mode is "standalone", "sentinel" or "cluster", as the URL says.
func (i *Inspector) Mode() string {
	return map[mode]string{single: "standalone", sentinel: "sentinel", cluster: "cluster"}[i.target.mode]
}

// explained wraps an error with what was being done and what to do about it.
func explained(doing string, err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	return fmt.Errorf("%s: %w", doing, &Error{Class: classify(err), Err: err})
}

// Node is a server as it says of itself: one alone, the master behind Sentinels, or a master of a cluster. Bytes and counts are 0
// where the server doesn't say.
type Node struct {
	// Addr is host:port, "" where only the Sentinels know it.
	Addr string
	// Software is Redis or Valkey, Version its version.
	Software, Version string
	// Master is false where it is a replica. Replicas are those connected to it.
	Master   bool
	Replicas int
	// Loading says that it reads its data after a start: then it answers nothing more, and Pings is empty.
	Loading bool

	// AppendOnly is aof_enabled. Save and AppendFsync are as configured, known where ConfigKnown.
	AppendOnly        bool
	Save, AppendFsync string
	ConfigKnown       bool
	// WritesFail names what the server could not write last, as "RDB snapshot"; "" where all went well.
	WritesFail string
	// LastSave is the last RDB snapshot, or the start.
	LastSave time.Time

	UsedBytes, MaxBytes  int64
	Policy               string
	Evicted              int64
	Fragmentation        float64
	Clients, RejectedAll int64

	// Pings are the durations of some PINGs, ascending.
	Pings []time.Duration
	// ClockAhead is how much the server's clock is ahead of ours, give or take half of ClockWithin. ClockErr says why it isn't known.
	ClockAhead, ClockWithin time.Duration
	ClockErr                error
}

// Nodes asks all masters, in the order of their addresses. pings is the number of PINGs to each.
func (i *Inspector) Nodes(ctx context.Context, pings int) ([]Node, error) {
	var mu sync.Mutex
	var nodes []Node
	err := i.eachMaster(ctx, func(ctx context.Context, c *client.Client) error {
		node, err := inspect(ctx, c, pings)
		if err != nil {
			return err
		}
		if i.target.mode == sentinel {
			node.Addr = "" // the client has a name of its own there
		}
		mu.Lock()
		defer mu.Unlock()
		nodes = append(nodes, *node)
		return nil
	})
	slices.SortFunc(nodes, func(a, b Node) int { return strings.Compare(a.Addr, b.Addr) })
	return nodes, explained("ask Redis", err)
}

// eachMaster calls f for every master, of a cluster for several at the same time.
func (i *Inspector) eachMaster(ctx context.Context, f func(context.Context, *client.Client) error) error {
	switch c := i.client.(type) {
	case *client.ClusterClient:
		return c.ForEachMaster(ctx, f)
	case *client.Client:
		return f(ctx, c)
	default:
		return fmt.Errorf("unknown client %T", c)
	}
}

func inspect(ctx context.Context, c *client.Client, pings int) (*Node, error) {
	text, err := c.Info(ctx).Result()
	if err != nil {
		return nil, err
	}
	node := nodeOf(parseInfo(text))
	node.Addr = c.Options().Addr
	if node.Loading { // it answers nothing else
		return node, nil
	}
	for range pings {
		began := time.Now()
		if err := c.Ping(ctx).Err(); err != nil {
			return nil, err
		}
		node.Pings = append(node.Pings, time.Since(began))
	}
	slices.Sort(node.Pings)
	node.readClock(ctx, c)
	if save, err := c.ConfigGet(ctx, "save").Result(); err == nil {
		if fsync, err := c.ConfigGet(ctx, "appendfsync").Result(); err == nil {
			node.Save, node.AppendFsync, node.ConfigKnown = save["save"], fsync["appendfsync"], true
		}
	}
	return node, ctx.Err()
}

// readClock compares the clocks: the server's was read at some moment between asking and the answer.
func (n *Node) readClock(ctx context.Context, c *client.Client) {
	began := time.Now()
	theirs, err := c.Time(ctx).Result()
	n.ClockWithin = time.Since(began)
	if err != nil {
		n.ClockErr = explained("read the clock of Redis", err)
		return
	}
	n.ClockAhead = theirs.Sub(began.Add(n.ClockWithin / 2))
}

// info is what INFO says.
type info map[string]string

func parseInfo(text string) info {
	in := make(info)
	for line := range strings.SplitSeq(text, "\n") {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			in[name] = value
		}
	}
	return in
}

func (in info) int(name string) int64 {
	n, err := strconv.ParseInt(in[name], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func nodeOf(in info) *Node {
	n := &Node{
		Software: "Redis", Version: in["redis_version"],
		Master:   in["role"] != "slave",
		Replicas: int(in.int("connected_slaves")),
		Loading:  in.int("loading") != 0,

		AppendOnly: in.int("aof_enabled") != 0,
		LastSave:   time.Unix(in.int("rdb_last_save_time"), 0),

		UsedBytes: in.int("used_memory"), MaxBytes: in.int("maxmemory"),
		Policy: in["maxmemory_policy"], Evicted: in.int("evicted_keys"),
		Clients: in.int("connected_clients"), RejectedAll: in.int("rejected_connections"),
	}
	if version := in["valkey_version"]; version != "" {
		n.Software, n.Version = "Valkey", version
	}
	if f, err := strconv.ParseFloat(in["mem_fragmentation_ratio"], 64); err == nil {
		n.Fragmentation = f
	}
	for _, status := range []struct{ field, what string }{
		{"rdb_last_bgsave_status", "RDB snapshot"}, {"aof_last_write_status", "append-only file"}, {"aof_last_bgrewrite_status", "rewrite of the append-only file"},
	} {
		if in[status.field] == "err" && (status.what == "RDB snapshot" || n.AppendOnly) {
			n.WritesFail = status.what
		}
	}
	return n
}

// oldestVersion is what the scripts need: SET with EXAT, ZUNION and ZMSCORE.
var oldestVersion = [2]int{6, 2}

// Supported says whether the version is one that a Store works with. Every Valkey is.
func (n *Node) Supported() bool {
	var v [2]int
	if _, err := fmt.Sscanf(n.Version, "%d.%d", &v[0], &v[1]); err != nil {
		return false
	}
	return v[0] > oldestVersion[0] || v[0] == oldestVersion[0] && v[1] >= oldestVersion[1]
}

// Meta is what usage:meta says.
type Meta struct {
	// Found is false where no daemon has used this Redis, or its data was deleted.
	Found      bool
	Schema     string
	Partitions int
	Epoch      string
}

// Compatible says whether this version of usaged knows the layout of the keys.
func (m *Meta) Compatible() bool {
	return m.Schema == schemaVersion && m.Partitions > 0 && m.Partitions <= idBuckets
}

// Meta reads usage:meta and doesn't make it.
func (i *Inspector) Meta(ctx context.Context) (*Meta, error) {
	values, err := i.client.HMGet(ctx, metaKey, "schema", "partitions", "epoch").Result()
	if err != nil {
		return nil, explained("read usage:meta", err)
	}
	texts := make([]string, len(values))
	for n, value := range values {
		texts[n], _ = value.(string)
	}
	m := &Meta{Found: texts[0] != "" || texts[1] != "", Schema: texts[0], Epoch: texts[2]}
	if n, err := strconv.Atoi(texts[1]); err == nil {
		m.Partitions = n
	}
	return m, nil
}

// sortedKeys returns the keys of a map in order.
func sortedKeys[K ~int32, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
