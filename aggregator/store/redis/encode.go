package redis

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"

	"usaged/aggregator/event"
	"usaged/aggregator/meter"
	"usaged/aggregator/store"
)

// chunkCells is the number of cells of one chunk. Lua's unpack takes fewer than 8,000 values, two for each cell.
const chunkCells = 3_500

// request is a batch as apply.lua takes it.
//
//	KEYS  producer, producers, others as they are met
//	ARGV  header, chunk, chunk, …
//
//	header  [prev, last, session, id, totals, days, claims]
//	totals  [field, value, field, value, …]
//	day     [expiry, version, version key, types key, key of __other__, [type, …], [count, …], [rollup, …], [reserved type, …]]
//	rollup  [key, place of its type or 0, by reference, chunks]
//	claims  [expiry, mark, mark of the day before, mark of the day after, keys of the day after are given, [claim…], [span…]]
//	claim   bucket, bucket of the day before, bucket of the day after or 0, digest, time of day, place, whether it is recorded
//	span    bucket, digest, "first,last"
//	chunk   [total, key, total, key, …]
//
// where a key is its place in KEYS, and every place counts from 1.
type request struct {
	space  *keyspace
	keys   []string
	places map[string]int
	header packer
	chunks []any
}

// encode writes a batch; newest is the newest day on which ids are known to have been accepted. It reads each of the batch's maps once, so that what belongs together stays in one order.
func encode(space *keyspace, b *store.Batch, newest event.Day) (*request, error) {
	r := &request{space: space, places: make(map[string]int)}
	r.key(space.producer(b.Producer))
	r.key(space.producers())
	h := &r.header
	h.array(7)
	h.string(strconv.FormatUint(b.Prev, 10))
	h.string(strconv.FormatUint(b.Last, 10))
	h.string(strconv.FormatUint(b.Session, 10))
	h.string(b.Producer)
	if err := r.totals(b.Totals); err != nil {
		return nil, err
	}
	h.array(len(b.Days))
	for day, delta := range b.Days {
		r.day(day, delta)
	}
	r.claims(slices.Concat(b.Claims, b.Checks), len(b.Claims), newest)
	return r, nil
}

// args are the values behind the keys.
func (r *request) args() []any { return append([]any{r.header.buf}, r.chunks...) }

// key returns the place of a key in KEYS.
func (r *request) key(key string) uint64 {
	place, ok := r.places[key]
	if !ok {
		r.keys = append(r.keys, key)
		place = len(r.keys)
		r.places[key] = place
	}
	return uint64(place)
}

// totalPrefix begins the fields of lifetime totals in a producer's hash.
const totalPrefix = "total:"

func (r *request) totals(totals meter.Totals) error {
	r.header.array(2 * len(totals))
	for series, n := range totals {
		text, err := series.MarshalText()
		if err != nil {
			return fmt.Errorf("encode series: %w", err)
		}
		r.header.string(totalPrefix + string(text))
		r.header.string(strconv.FormatUint(n, 10))
	}
	return nil
}

func (r *request) day(day event.Day, delta *meter.DayDelta) {
	h := &r.header
	h.array(9)
	h.uint(r.space.dayExpiry(day))
	h.string(newNonce())
	h.uint(r.key(r.space.version(day)))
	h.uint(r.key(r.space.types(day)))
	h.uint(r.key(r.space.rollup(day, meter.TypeRollup(event.Other))))

	names := make([]string, 0, len(delta.Types))
	places := make(map[string]int, len(delta.Types))
	h.array(len(delta.Types))
	for _, name := range delta.OrderedTypes() {
		h.string(name)
		names = append(names, name)
		places[name] = len(names)
	}
	h.array(len(names))
	for _, name := range names {
		h.uint(min(delta.Types[name], meter.MaxTotal))
	}

	h.array(len(delta.Rollups))
	for rollup, cells := range delta.Rollups {
		place := 0
		if rollup.Meter == "" {
			place = places[rollup.Type]
		}
		h.array(4)
		h.uint(r.key(r.space.rollup(day, rollup)))
		h.uint(uint64(place))
		h.bool(rollup.Dim == meter.ByReference)
		keys := slices.Collect(maps.Keys(cells))
		if rollup.Dim == meter.ByReference {
			keys = delta.OrderedKeys(rollup)
		}
		h.uint(uint64(r.cells(cells, keys)))
	}
	h.array(len(delta.Reserved))
	for _, name := range delta.Reserved {
		h.string(name)
	}
}

// cells adds the chunks of a rollup, in the order in which its keys are given room, and returns how many they are.
func (r *request) cells(cells meter.Cells, order []string) int {
	var p packer
	left, room, chunks := len(cells), 0, 0
	for _, key := range order {
		total := cells[key]
		if room == 0 {
			room = min(left, chunkCells)
			p.buf = make([]byte, 0, room*32)
			p.array(2 * room)
		}
		p.uint(min(total, meter.MaxTotal))
		p.string(key)
		left--
		if room--; room == 0 {
			r.chunks = append(r.chunks, p.buf)
			chunks++
		}
	}
	return chunks
}

// bucketOn is the hash in which claims of one day lie.
type bucketOn struct {
	accepted event.Day
	bucket   uint32
}

// claims writes the claims by their day of acceptance. Claims of later days than newest are unknown to us; for days before
// it, the keys of the day after are given. Those from recorded on are only compared.
func (r *request) claims(claims []store.Claim, recorded int, newest event.Day) {
	byDay := make(map[event.Day][]int)
	for i, c := range claims {
		day, _ := acceptedOn(c.AcceptedMillis)
		byDay[day] = append(byDay[day], i)
	}
	buckets := make(map[bucketOn]uint64, 2*len(claims))
	h := &r.header
	h.array(len(byDay))
	for day, members := range byDay {
		h.array(7)
		h.uint(r.space.idsExpiry(day))
		h.uint(r.key(r.space.idsMark(day)))
		h.uint(r.key(r.space.idsMark(day - 1)))
		h.uint(r.key(r.space.idsMark(day + 1)))
		h.bool(day < newest)
		prefixes := [3]string{r.space.ids(day), r.space.ids(day - 1), r.space.ids(day + 1)}
		h.array(7 * len(members))
		for _, i := range members {
			bucket := r.space.bucket(claims[i].Digest)
			h.uint(r.bucket(buckets, bucketOn{day, bucket}, prefixes[0]))
			h.uint(r.bucket(buckets, bucketOn{day - 1, bucket}, prefixes[1]))
			if day < newest {
				h.uint(r.bucket(buckets, bucketOn{day + 1, bucket}, prefixes[2]))
			} else {
				h.uint(0)
			}
			_, millis := acceptedOn(claims[i].AcceptedMillis)
			h.string(string(claims[i].Digest[:]))
			h.uint(millis)
			h.uint(uint64(i))
			h.bool(i < recorded)
		}
		r.spans(claims[:recorded], members, buckets, day)
	}
}

// bucket returns the place of a bucket's key.
func (r *request) bucket(places map[bucketOn]uint64, b bucketOn, prefix string) uint64 {
	place, ok := places[b]
	if !ok {
		r.keys = append(r.keys, prefix+strconv.FormatUint(uint64(b.bucket), 10))
		place = uint64(len(r.keys))
		places[b] = place
	}
	return place
}

// spans writes the first and the last acceptance of the ids that occur more than once, which is rare: whoever folds events
// takes the second for a duplicate.
func (r *request) spans(claims []store.Claim, members []int, places map[bucketOn]uint64, day event.Day) {
	type span struct{ first, last uint64 }
	seen := make(map[[16]byte]span, len(members))
	var repeated [][16]byte
	for _, i := range members {
		if i >= len(claims) {
			break // members are in ascending order, and the others are not recorded
		}
		_, millis := acceptedOn(claims[i].AcceptedMillis)
		s, again := seen[claims[i].Digest]
		if !again {
			seen[claims[i].Digest] = span{millis, millis}
			continue
		}
		seen[claims[i].Digest] = span{min(s.first, millis), max(s.last, millis)}
		repeated = append(repeated, claims[i].Digest)
	}
	h := &r.header
	h.array(3 * len(repeated))
	for _, digest := range repeated {
		h.uint(places[bucketOn{day, r.space.bucket(digest)}])
		h.string(string(digest[:]))
		h.string(fmt.Sprintf("%d,%d", seen[digest].first, seen[digest].last))
	}
}

// newNonce returns a random version or epoch.
func newNonce() string { return fmt.Sprintf("%016x", rand.Uint64()) }
