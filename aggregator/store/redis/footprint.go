package redis

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	client "github.com/redis/go-redis/v9"

	"usaged/aggregator/event"
)

// Footprint is what the keys of a store take in Redis. Keys are counted, and the bytes and members of some of each kind are
// measured.
type Footprint struct {
	Keys uint64
	// Days has the rollups per day, IDs the claimed ids per day of acceptance, both oldest first.
	Days []DayFootprint
	IDs  []IDsFootprint
	// ProducerBytes is what the producers take.
	ProducerBytes uint64
	// Foreign are keys that no store has made, Misplaced those of another type than the store's, Lasting those that should
	// expire and don't: a few of each.
	Foreign, Misplaced, Lasting []string
}

// DayFootprint is one day's part.
type DayFootprint struct {
	Day   event.Day
	Keys  uint64
	Bytes uint64
	// Pairs is the number of (type, user), PairBytes what they take of Bytes.
	Pairs, PairBytes uint64
}

// IDsFootprint are the ids accepted on one day.
type IDsFootprint struct {
	Day   event.Day
	Keys  uint64
	IDs   uint64
	Bytes uint64
}

const (
	// measuredOfKind is how many keys of one kind and day are measured per server.
	measuredOfKind = 2_000
	// scanned is how many keys one SCAN looks at.
	scanned = 1000
	// examples bounds the lists of keys that are wrong.
	examples = 5
)

// keyClass is what a key of the store holds.
type keyClass int

const (
	foreignKey keyClass = iota
	metaHash
	producerHash
	producerSet
	aliveString
	typesHash
	pairSet
	meterSet
	versionString
	idsBucket
	idsString
)

// kindOf has the Redis type of each class.
var kindOf = map[keyClass]string{
	metaHash: "hash", producerHash: "hash", producerSet: "set", aliveString: "string", typesHash: "hash", pairSet: "zset", meterSet: "zset",
	versionString: "string", idsBucket: "hash", idsString: "string",
}

// expires says whether keys of the class have a time to live.
func (c keyClass) expires() bool { return c >= aliveString }

// keyGroup are the keys of one class and day.
type keyGroup struct {
	class keyClass
	day   event.Day
}

// classOf takes a key apart.
func classOf(key string) keyGroup {
	foreign := keyGroup{class: foreignKey}
	if key == metaKey {
		return keyGroup{class: metaHash}
	}
	rest, ok := strings.CutPrefix(key, "usage:{p")
	partition, rest, tagged := strings.Cut(rest, "}:")
	if !ok || !tagged || strings.Trim(partition, "0123456789") != "" {
		return foreign
	}
	parts := strings.Split(rest, ":")
	switch {
	case rest == "producers":
		return keyGroup{class: producerSet}
	case len(parts) == 2 && parts[0] == "producer":
		return keyGroup{class: producerHash}
	case len(parts) == 2 && parts[0] == "alive":
		return keyGroup{class: aliveString}
	case len(parts) < 2:
		return foreign
	}
	day, err := event.ParseDay(parts[1])
	if err != nil {
		return foreign
	}
	switch what := strings.Join(parts[2:min(3, len(parts))], ""); {
	case parts[0] == "day" && what == "types" && len(parts) == 3:
		return keyGroup{typesHash, day}
	case parts[0] == "day" && what == "version" && len(parts) == 3:
		return keyGroup{versionString, day}
	case parts[0] == "day" && what == "type" && len(parts) == 4:
		return keyGroup{pairSet, day}
	case parts[0] == "day" && what == "meter" && len(parts) == 5:
		return keyGroup{meterSet, day}
	case parts[0] == "ids" && len(parts) == 2:
		return keyGroup{idsString, day}
	case parts[0] == "ids" && len(parts) == 3:
		return keyGroup{idsBucket, day}
	default:
		return foreign
	}
}

// sample is what is known of a group.
type sample struct {
	keys, measured uint64
	bytes, members uint64 // of those measured
}

// scale estimates the whole from what was measured.
func (s *sample) scale(of uint64) uint64 {
	if s.measured == 0 {
		return 0
	}
	return uint64(float64(of) / float64(s.measured) * float64(s.keys))
}

// survey collects what the servers hold.
type survey struct {
	mu    sync.Mutex
	found Footprint
	days  map[event.Day]*DayFootprint
	ids   map[event.Day]*IDsFootprint
}

// Footprint goes through all keys that begin with "usage:" and measures some.
func (i *Inspector) Footprint(ctx context.Context) (*Footprint, error) {
	s := &survey{days: make(map[event.Day]*DayFootprint), ids: make(map[event.Day]*IDsFootprint)}
	err := i.eachMaster(ctx, s.server)
	if err != nil {
		return nil, explained("measure keys", err)
	}
	for _, day := range sortedKeys(s.days) {
		s.found.Days = append(s.found.Days, *s.days[day])
	}
	for _, day := range sortedKeys(s.ids) {
		s.found.IDs = append(s.found.IDs, *s.ids[day])
	}
	return &s.found, nil
}

func (s *survey) server(ctx context.Context, c *client.Client) error {
	groups := make(map[keyGroup]*sample)
	for cursor := uint64(0); ; {
		keys, next, err := c.Scan(ctx, cursor, "usage:*", scanned).Result()
		if err != nil {
			return err
		}
		if err := s.measure(ctx, c, keys, groups); err != nil {
			return err
		}
		if cursor = next; cursor == 0 {
			break
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for g, sample := range groups {
		s.add(g, sample)
	}
	return nil
}

// look is what is asked about one key.
type look struct {
	key     string
	class   keyClass
	kind    *client.StatusCmd
	ttl     *client.DurationCmd
	bytes   *client.IntCmd
	members *client.IntCmd // nil where they don't matter
}

// measure counts keys, and asks about as many as are still wanted of their kind, in one round trip.
func (s *survey) measure(ctx context.Context, c *client.Client, keys []string, groups map[keyGroup]*sample) error {
	var looks []look
	var of []*sample
	pipe := c.Pipeline()
	for _, key := range keys {
		g := classOf(key)
		if groups[g] == nil {
			groups[g] = &sample{}
		}
		group := groups[g]
		group.keys++
		if g.class == foreignKey {
			s.note(&s.found.Foreign, key)
			continue
		}
		if group.measured >= measuredOfKind {
			continue
		}
		group.measured++
		l := look{key: key, class: g.class, kind: pipe.Type(ctx, key), ttl: pipe.TTL(ctx, key), bytes: pipe.MemoryUsage(ctx, key)}
		switch g.class {
		case pairSet:
			l.members = pipe.ZCard(ctx, key)
		case idsBucket:
			l.members = pipe.HLen(ctx, key)
		default:
		}
		looks, of = append(looks, l), append(of, group)
	}
	if len(looks) == 0 {
		return nil
	}
	// Exec returns the first error of many; each command has its own, also where the connection has failed.
	pipe.Exec(ctx) //nolint:errcheck // as said
	for n, l := range looks {
		if err := s.read(&l, of[n]); err != nil {
			return err
		}
	}
	return nil
}

// read adds what was found about a key.
func (s *survey) read(l *look, group *sample) error {
	for _, err := range []error{l.kind.Err(), l.ttl.Err(), l.bytes.Err()} {
		if err != nil && !errors.Is(err, client.Nil) {
			return err
		}
	}
	const lasting = -1 * time.Nanosecond // what the client makes of the reply -1
	switch {
	case l.kind.Val() == "none" || l.bytes.Val() == 0: // it expired meanwhile
		group.keys--
		group.measured--
		return nil
	case l.kind.Val() != kindOf[l.class]:
		s.note(&s.found.Misplaced, l.key)
	case l.class.expires() && l.ttl.Val() == lasting:
		s.note(&s.found.Lasting, l.key)
	}
	group.bytes += uint64(l.bytes.Val())
	if l.members != nil {
		group.members += uint64(l.members.Val()) // 0 for a key of another type
	}
	return nil
}

func (s *survey) note(list *[]string, key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(*list) < examples && !slices.Contains(*list, key) {
		*list = append(*list, key)
	}
}

// add adds a group of one server. s.mu is held.
func (s *survey) add(g keyGroup, found *sample) {
	if g.class == foreignKey {
		return
	}
	s.found.Keys += found.keys
	bytes, members := found.scale(found.bytes), found.scale(found.members)
	switch g.class {
	case producerHash, producerSet, metaHash, aliveString:
		s.found.ProducerBytes += bytes
	case idsBucket, idsString:
		if s.ids[g.day] == nil {
			s.ids[g.day] = &IDsFootprint{Day: g.day}
		}
		ids := s.ids[g.day]
		ids.Keys += found.keys
		ids.Bytes += bytes
		ids.IDs += members
	default:
		if s.days[g.day] == nil {
			s.days[g.day] = &DayFootprint{Day: g.day}
		}
		day := s.days[g.day]
		day.Keys += found.keys
		day.Bytes += bytes
		if g.class == pairSet {
			day.Pairs += members
			day.PairBytes += bytes
		}
	}
}
