package redis

import (
	"encoding/binary"
	"strconv"
	"time"

	"usaged/aggregator/event"
	"usaged/aggregator/meter"
	"usaged/aggregator/store"
)

// metaKey says what the keys of this store are.
const metaKey = "usage:meta"

// keyspace names the keys of one partition. Its tag comes first in every key, and Redis Cluster hashes the first pair of
// braces: nothing behind it chooses a slot. What comes from outside is escaped, so that a colon always separates and
// a key can be read in a terminal.
type keyspace struct {
	prefix string
	// buckets is the number of hashes over which the ids of a day are spread.
	buckets uint32
	// kept returns for how many days rollups are kept.
	kept func() int
}

// idBuckets is the number of hashes that the ids of one day lie in, over all partitions. Redis packs a hash of up to 128
// fields tightly, so that 8 million ids a day stay at about 28 bytes each; a bucket with a single id costs about 200, so
// few ids cost little in all: at most 13 MB a day.
const idBuckets = 65_536

func newKeyspace(partition, partitions int, kept func() int) *keyspace {
	return &keyspace{
		prefix:  "usage:{p" + strconv.Itoa(partition) + "}:",
		buckets: max(1, uint32(idBuckets/partitions)),
		kept:    kept,
	}
}

// producer holds the offset, the session and the lifetime totals of a producer.
func (k *keyspace) producer(id string) string {
	return string(appendEscaped([]byte(k.prefix+"producer:"), id))
}

// alive is there while a producer lives.
func (k *keyspace) alive(id string) string {
	return string(appendEscaped([]byte(k.prefix+"alive:"), id))
}

// producers is the set of the ids of all producers.
func (k *keyspace) producers() string { return k.prefix + "producers" }

func (k *keyspace) day(day event.Day) string { return k.prefix + "day:" + day.String() }

func (k *keyspace) version(day event.Day) string { return k.day(day) + ":version" }

func (k *keyspace) types(day event.Day) string { return k.day(day) + ":types" }

func (k *keyspace) rollup(day event.Day, r meter.Rollup) string {
	if r.Meter == "" {
		return string(appendEscaped([]byte(k.day(day)+":type:"), r.Type))
	}
	key := appendEscaped([]byte(k.day(day)+":meter:"), r.Meter)
	return string(appendEscaped(append(key, ':'), string(r.Dim)))
}

// dayExpiry is when the keys of a day expire, in seconds since 1970: a day after it has left the window.
func (k *keyspace) dayExpiry(day event.Day) uint64 {
	return unix((day + event.Day(k.kept()) + 1).Time())
}

// bucket returns the number of the hash in which an id lies.
func (k *keyspace) bucket(digest [16]byte) uint32 {
	return binary.BigEndian.Uint32(digest[:]) % k.buckets
}

// idsMark is there where ids were accepted on a day.
func (k *keyspace) idsMark(accepted event.Day) string { return k.prefix + "ids:" + accepted.String() }

// ids begins the keys of the ids accepted on a day; the number of the bucket follows.
func (k *keyspace) ids(accepted event.Day) string { return k.idsMark(accepted) + ":" }

// idsExpiry is when the ids accepted on a day expire: ClaimLifetime after its end.
func (k *keyspace) idsExpiry(accepted event.Day) uint64 {
	return unix((accepted + 1).Time().Add(store.ClaimLifetime))
}

// unix returns the seconds since 1970, at least 1, since Redis takes no time before.
func unix(t time.Time) uint64 { return uint64(max(t.Unix(), 1)) }

// acceptedOn splits an acceptance into its UTC day and the milliseconds since that began.
func acceptedOn(millis int64) (day event.Day, millisOfDay uint64) {
	t := time.UnixMilli(millis)
	day = event.DayOf(t)
	return day, uint64(t.Sub(day.Time()).Milliseconds())
}

// appendEscaped appends s with every byte but letters, digits and -._~@+ written as %XX. No two strings are escaped alike.
func appendEscaped(dst []byte, s string) []byte {
	const hex = "0123456789ABCDEF"
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9',
			c == '-', c == '.', c == '_', c == '~', c == '@', c == '+':
			dst = append(dst, c)
		default:
			dst = append(dst, '%', hex[c>>4], hex[c&15])
		}
	}
	return dst
}
