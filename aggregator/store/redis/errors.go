package redis

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	client "github.com/redis/go-redis/v9"

	"usaged/aggregator/store"
)

// Class is a kind of failure that an operator treats in one way. It is a label of usaged_store_redis_errors_total.
type Class string

// The classes.
const (
	Unreachable  Class = "unreachable"
	Timeout      Class = "timeout"
	Loading      Class = "loading"
	ReadOnly     Class = "readonly"
	OutOfMemory  Class = "oom"
	NoReplicas   Class = "noreplicas"
	SnapshotFail Class = "misconf"
	WrongType    Class = "wrongtype"
	NoAuth       Class = "noauth"
	NoPermission Class = "noperm"
	ClusterDown  Class = "clusterdown"
	Resharding   Class = "tryagain"
	Busy         Class = "busy"
	MaxClients   Class = "maxclients"
	LostProducer Class = "lostproducer"
	OldSession   Class = "oldsession"
	Incompatible Class = "incompatible"
	Other        Class = "other"
)

// advice says for each class what to do.
var advice = map[Class]string{
	Unreachable:  "check --redis.url, the network, and that Redis runs; usaged keeps events in its journal and goes on by itself",
	Timeout:      "Redis did not answer in time; look at its SLOWLOG, CPU and network. usaged goes on by itself",
	Loading:      "Redis is reading its data after a start; usaged goes on by itself",
	ReadOnly:     "this is a replica: point --redis.url at the master, or use redis+sentinel:// or redis+cluster:// so that failovers are followed",
	OutOfMemory:  "Redis has reached maxmemory: raise it, or lower --retention.days; keep maxmemory-policy noeviction",
	NoReplicas:   "Redis has fewer good replicas than min-replicas-to-write: repair them or lower it",
	SnapshotFail: "Redis could not save its data and refuses writes: look at its log and its disk",
	WrongType: "another program or a person has put something else under a key of usaged: delete or rename it, and usaged goes on by itself; " +
		"if counts stood there before, delete all keys of the partition (usage:{pN}:*), and they are rebuilt from the journal",
	NoAuth:       "check user and password in --redis.url or --redis.password-file",
	NoPermission: "the ACL user of usaged lacks a command or key: see the ACL in the operator's documentation",
	ClusterDown:  "a part of the cluster has no master: repair it; usaged goes on by itself",
	Resharding:   "the slot is being moved to another node; usaged goes on by itself",
	Busy:         "a script blocks Redis; usaged goes on when it ends",
	MaxClients:   "Redis has as many clients as maxclients allows: raise it",
	LostProducer: "the key was deleted or evicted alone, and applying from the start would count again what still stands there: " +
		"delete all keys of the partition (usage:{pN}:*), and each daemon rebuilds its part from its journal; keep maxmemory-policy noeviction",
	OldSession: "a copy of this data directory has taken over so many times since that Redis no longer knows which events were counted before: " +
		"compare the directory with its copy, and send what that one lacks with usagectl journal drain",
	Incompatible: "", // such errors say it themselves
	Other:        "look at the log of Redis",
}

// codes are the words that begin errors of Redis, with their classes.
var codes = []struct {
	code  string
	class Class
}{
	{"LOADING", Loading},
	{"READONLY", ReadOnly},
	{"OOM", OutOfMemory},
	{"NOREPLICAS", NoReplicas},
	{"MISCONF", SnapshotFail},
	{"WRONGTYPE", WrongType},
	{"NOAUTH", NoAuth},
	{"WRONGPASS", NoAuth},
	{"ERR AUTH", NoAuth},
	{"ERR invalid password", NoAuth},
	{"NOPERM", NoPermission},
	{"ERR The user executing the script", NoPermission}, // Redis 7.0, inside a script
	{"CLUSTERDOWN", ClusterDown},
	{"MASTERDOWN", ClusterDown},
	{"TRYAGAIN", Resharding},
	{lostProducer, LostProducer},
	{"OLDSESSION", OldSession},
	{"BUSY", Busy},
	{"ERR max number of clients", MaxClients},
}

// lostProducer begins the error of apply.lua that says that a producer's key is missing, although the partition has counted under it.
const lostProducer = "LOSTPRODUCER"

// Error is a failure of Redis.
type Error struct {
	Class Class
	Err   error
}

// Error returns what Redis said and what to do about it.
func (e *Error) Error() string { return e.Err.Error() + " (" + advice[e.Class] + ")" }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// fail counts an error and wraps it with what was being done and what to do about it. It returns nil for nil.
func (s *Store) fail(doing string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, store.ErrIncompatible) {
		s.metrics.errors[Incompatible].Inc()
		return fmt.Errorf("%s: %w", doing, err)
	}
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("%s: %w", doing, err)
	}
	class := classify(err)
	s.metrics.errors[class].Inc()
	return fmt.Errorf("%s: %w", doing, &Error{Class: class, Err: err})
}

func classify(err error) Class {
	text := err.Error()
	for _, c := range codes {
		// Redis 6 wraps an error inside a script in one of its own; the client wraps those of several servers.
		if strings.HasPrefix(text, c.code) || strings.Contains(text, "-"+c.code+" ") || strings.Contains(text, ": "+c.code+" ") {
			return c.class
		}
	}
	var answer client.Error
	if errors.As(err, &answer) && !errors.Is(err, client.ErrPoolTimeout) {
		return Other
	}
	var netErr net.Error
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, client.ErrPoolTimeout) || errors.As(err, &netErr) && netErr.Timeout() && !isDial(err) {
		return Timeout
	}
	return Unreachable
}

func isDial(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}
