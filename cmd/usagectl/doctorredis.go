package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"usaged/aggregator/event"
	"usaged/aggregator/store/redis"
)

const (
	pings = 20
	// manyEvents behind is more than a daemon that keeps up ever is.
	manyEvents = 100_000
)

// redisDoctor examines a Redis.
type redisDoctor struct {
	*diagnosis
	in         *redis.Inspector
	partitions int
	retention  int
	now        func() time.Time
	// own is the identity in the data directory, nil where there is none.
	own *identityFile
	// offsets are what Redis knows of the producers, nil where it couldn't be asked.
	offsets map[string]redis.ProducerState
}

func (d *redisDoctor) examine(ctx context.Context) {
	nodes, err := d.in.Nodes(ctx, pings)
	if err != nil {
		d.fail("redis", d.in.String()+": "+cause(err), advice(err))
		return
	}
	for _, node := range nodes {
		if node.Loading {
			d.warn("redis", d.in.String()+": it is loading its data after a start", "wait, and examine it again; the daemon goes on by itself")
			return
		}
		d.node(&node)
	}
	meta := d.meta(ctx)
	if meta == nil {
		return
	}
	d.producers(ctx, meta)
	d.footprint(ctx, nodes)
}

// cause is an error of Redis without the advice, which has a place of its own.
func cause(err error) string {
	if e, ok := errors.AsType[*redis.Error](err); ok {
		return strings.Replace(err.Error(), e.Error(), e.Err.Error(), 1)
	}
	return err.Error()
}

func advice(err error) string {
	e, ok := errors.AsType[*redis.Error](err)
	if !ok {
		return "look at the log of Redis"
	}
	return strings.TrimSuffix(strings.TrimPrefix(e.Error(), e.Err.Error()+" ("), ")")
}

// failed adds a finding for a question that Redis refused to answer: with a user who may do only what the daemon does that is
// no failure.
func (d *redisDoctor) failed(check string, err error) {
	if e, ok := errors.AsType[*redis.Error](err); ok && e.Class == redis.NoPermission {
		d.warn(check, "not known: "+e.Err.Error(),
			"nothing, or for this check let the Redis user also run "+strings.Join(redis.InspectorACL(), " "))
		return
	}
	d.fail(check, cause(err), advice(err))
}

func (d *redisDoctor) node(n *redis.Node) {
	name := d.in.String()
	if d.in.Mode() == "cluster" {
		name = n.Addr
	}
	found := fmt.Sprintf("%s: %s %s, %s, %s", name, n.Software, n.Version, d.in.Mode(), plural(n.Replicas, "replica"))
	switch {
	case !n.Supported():
		d.fail("redis version", found, "use Redis 6.2 or newer, or Valkey")
	case !n.Master:
		d.fail("redis role", found+": a replica, which takes no writes", "name the master, or use redis+sentinel:// or redis+cluster://")
	case n.Replicas == 0 && d.in.Mode() != "standalone":
		d.warn("redis version", found+": nobody takes over when it fails", "add a replica")
	default:
		d.ok("redis version", "%s", found)
	}
	d.persistence(n)
	d.policy(n)
	d.memory(n)
	p50, p99 := n.Pings[len(n.Pings)/2], n.Pings[len(n.Pings)*99/100]
	d.grade(limit(p99, 20*time.Millisecond, 500*time.Millisecond), "redis latency",
		fmt.Sprintf("PING p50 %s, p99 %s of %d", shortly(p50), shortly(p99), len(n.Pings)),
		"look at CPU and SLOWLOG of Redis and at the network; ingest doesn't wait for it, figures do")
	d.clock(n)
}

func (d *redisDoctor) persistence(n *redis.Node) {
	const check = "redis persistence"
	found := "appendonly no"
	if n.AppendOnly {
		found = "appendonly yes"
	}
	if n.ConfigKnown {
		save := n.Save
		if save == "" {
			save = "never"
		}
		found += fmt.Sprintf(", appendfsync %s, save %s", n.AppendFsync, save)
	}
	switch {
	case n.WritesFail != "":
		d.fail(check, found+"; the last "+n.WritesFail+" failed", "look at the log of Redis and at its disk: it may refuse writes until it can save")
	case n.AppendOnly && n.ConfigKnown && n.AppendFsync == "no":
		d.warn(check, found, "set appendfsync everysec, so that a crash costs a second of work to be done again and not thirty")
	case n.AppendOnly:
		d.ok(check, "%s", found)
	case n.ConfigKnown && n.Save == "":
		d.warn(check, found+": a restart of Redis forgets everything",
			"set appendonly yes; counts come back from the journals without it too, but figures are short until then, and lifetime totals "+
				"of producers that are gone are lost")
	default:
		d.warn(check, fmt.Sprintf("%s; last snapshot %s ago", found, shortly(max(0, d.now().Sub(n.LastSave)))),
			"set appendonly yes: a crash goes back to the last snapshot, and the journals are applied from there again")
	}
}

func (d *redisDoctor) policy(n *redis.Node) {
	const check = "redis eviction"
	found := "maxmemory-policy " + n.Policy
	const do = "run CONFIG SET maxmemory-policy noeviction, and put it into redis.conf"
	switch {
	case n.Evicted > 0 && n.Policy != "noeviction":
		d.fail(check, fmt.Sprintf("%s; %s evicted since its start", found, plural(n.Evicted, "key")),
			do+"; then empty this Redis database of usage:* keys, and the daemons fill it from their journals")
	case n.Policy != "noeviction" && n.MaxBytes > 0:
		d.fail(check, found+": Redis deletes rollups when it reaches maxmemory", do)
	case n.Policy != "noeviction":
		d.warn(check, found+", without maxmemory", do)
	default:
		d.ok(check, "%s", found)
	}
}

func (d *redisDoctor) memory(n *redis.Node) {
	const check = "redis memory"
	if n.MaxBytes == 0 {
		d.ok(check, "%s used, no maxmemory, fragmentation %.2f", binaryBytes(uint64(n.UsedBytes)), n.Fragmentation)
		return
	}
	share := float64(n.UsedBytes) / float64(n.MaxBytes)
	d.grade(limit(share, .8, .95), check, fmt.Sprintf("%s of %s used (%.0f %%), fragmentation %.2f", binaryBytes(uint64(n.UsedBytes)),
		binaryBytes(uint64(n.MaxBytes)), 100*share, n.Fragmentation),
		"raise maxmemory, or lower --retention.days; when it is full Redis refuses writes and the journals keep what it doesn't take")
}

func (d *redisDoctor) clock(n *redis.Node) {
	const check = "redis clock"
	if n.ClockErr != nil {
		d.failed(check, n.ClockErr)
		return
	}
	ahead := n.ClockAhead - time.Until(d.now()) // where the process has a clock of its own
	side := "ahead of"
	if ahead < 0 {
		ahead, side = -ahead, "behind"
	}
	d.grade(limit(ahead-n.ClockWithin/2, 10*time.Second, 2*time.Hour), check,
		fmt.Sprintf("%s %s ours (± %s)", shortly(ahead), side, shortly(n.ClockWithin/2)),
		"run NTP on Redis and on every replica: days and ids expire by the clock of Redis, repetitions are told by those of the replicas")
}

func (d *redisDoctor) meta(ctx context.Context) *redis.Meta {
	const check = "redis schema"
	meta, err := d.in.Meta(ctx)
	switch {
	case err != nil:
		d.failed(check, err)
		return nil
	case !meta.Found:
		d.warn(check, "there is no usage:meta: no daemon uses this database, or its data was deleted within the last two seconds",
			"check --redis.url and its database, or start the daemon")
		return nil
	case !meta.Compatible():
		d.fail(check, fmt.Sprintf("schema %q with %d partitions, which this version does not know", meta.Schema, meta.Partitions),
			"use the usagectl and the usaged of the version that made it, or another database, which is filled from the journals")
		return nil
	}
	found := fmt.Sprintf("schema %s, %s, epoch %s", meta.Schema, plural(meta.Partitions, "partition"), meta.Epoch)
	switch {
	case d.partitions > 0 && d.partitions != meta.Partitions:
		d.fail(check, fmt.Sprintf("%s; --redis.partitions is %d", found, d.partitions),
			fmt.Sprintf("start the daemons with --redis.partitions=%d or without, or use another database", meta.Partitions))
	case d.own != nil && d.own.partitions() != meta.Partitions:
		d.fail(check, fmt.Sprintf("%s; the data directory was used with %d", found, d.own.partitions()),
			"start the daemon with the Redis that this data directory was used with")
	case d.in.Mode() == "cluster" && meta.Partitions == 1:
		d.warn(check, found+": one node of the cluster has everything", "for more than one, begin with --redis.partitions=16 in an empty cluster")
	default:
		d.ok(check, "%s", found)
	}
	return meta
}

func (d *redisDoctor) producers(ctx context.Context, meta *redis.Meta) {
	const check = "redis producers"
	list, err := d.in.Producers(ctx, meta)
	if err != nil {
		d.failed(check, err)
		return
	}
	d.offsets = make(map[string]redis.ProducerState)
	list = withoutRebuilds(list)
	for _, p := range list {
		d.offsets[p.ID] = p
		d.Producers = append(d.Producers, rowOf(&p, d.own.has(p.ID)))
	}
	if len(list) == 0 {
		d.warn(check, "none: no daemon has applied anything", "look at the log of the daemon")
		return
	}
	d.ok(check, "%s; prune those whose data directory is gone for ever", plural(len(list), "producer"))
}

func (d *redisDoctor) footprint(ctx context.Context, nodes []redis.Node) {
	const check = "redis keys"
	f, err := d.in.Footprint(ctx)
	if err != nil {
		d.failed(check, err)
		return
	}
	days := map[event.Day]*memoryDay{}
	of := func(day event.Day) *memoryDay {
		if days[day] == nil {
			days[day] = &memoryDay{Day: day.String()}
		}
		return days[day]
	}
	var bytes, pairs, pairBytes, idBytes, ids uint64
	for _, day := range f.Days {
		m := of(day.Day)
		m.Keys, m.Pairs, m.Bytes = m.Keys+day.Keys, day.Pairs, day.Bytes
		m.BytesPerPair = day.PairBytes / max(day.Pairs, 1)
		bytes, pairs, pairBytes = bytes+day.Bytes, pairs+day.Pairs, pairBytes+day.PairBytes
	}
	for _, day := range f.IDs {
		m := of(day.Day)
		m.Keys, m.IDs, m.IDBytes = m.Keys+day.Keys, day.IDs, day.Bytes
		ids, idBytes = ids+day.IDs, idBytes+day.Bytes
	}
	for _, m := range days {
		d.Memory = append(d.Memory, *m)
	}
	slices.SortFunc(d.Memory, func(a, b memoryDay) int { return strings.Compare(a.Day, b.Day) })
	d.ok(check, "%s: %s of rollups, %d bytes for each type and user of a day; %s of ids, %d bytes for each", plural(f.Keys, "key"),
		binaryBytes(bytes), pairBytes/max(pairs, 1), binaryBytes(idBytes), idBytes/max(ids, 1))
	d.strays(f)
	d.outlook(f, nodes)
}

// strays are keys that nobody should have made.
func (d *redisDoctor) strays(f *redis.Footprint) {
	const check = "redis keys"
	if len(f.Misplaced) > 0 {
		d.fail(check, "of another type than the daemon's: "+strings.Join(f.Misplaced, ", "),
			"another program has written them, or a person: rename or delete them; the counts that such a key had are rebuilt only if all "+
				"keys of its partition go")
	}
	if len(f.Lasting) > 0 {
		d.warn(check, "without an expiry: "+strings.Join(f.Lasting, ", "), "a person has touched them: delete them when their day has left the retention")
	}
	if len(f.Foreign) > 0 {
		d.warn(check, "not the daemon's: "+strings.Join(f.Foreign, ", "), "give usaged a database, or a Redis, of its own")
	}
}

// outlook estimates what the rollups of the whole retention will take: as many days as the largest one.
func (d *redisDoctor) outlook(f *redis.Footprint, nodes []redis.Node) {
	const check = "redis outlook"
	var largest, ids, used, maximum uint64
	for _, day := range f.Days {
		largest = max(largest, day.Bytes)
	}
	for _, day := range f.IDs {
		ids = max(ids, day.Bytes)
	}
	limited := true
	for _, n := range nodes {
		used, maximum = used+uint64(n.UsedBytes), maximum+uint64(n.MaxBytes)
		limited = limited && n.MaxBytes > 0
	}
	const idDays = 4 // 72 hours and the day itself
	whole := largest*uint64(d.retention+1) + ids*idDays
	found := fmt.Sprintf("%s for %d days like the largest so far", binaryBytes(whole), d.retention)
	if limited && whole > maximum*8/10 {
		d.warn(check, fmt.Sprintf("%s, of %s", found, binaryBytes(maximum)), "raise maxmemory, or lower --retention.days, before it is full")
		return
	}
	d.ok(check, "%s", found)
}
