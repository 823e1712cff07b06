package rollup

import (
	"encoding/binary"
	"slices"
	"sync"

	"usaged/aggregator/event"
	"usaged/aggregator/meter"
)

// maxCacheBytes bounds the cache of days. 30 days of 5 types and 10,000 users take about 6 MiB.
const maxCacheBytes = 96 << 20

// cache holds the cells of days, packed, each as long as its day's version in the store is the one it was read under. It
// is safe for concurrent use.
//
// Keys (users and references) are numbered in one dictionary, so that a cell takes a few bytes, and adding up days needs no
// strings and no hashing.
type cache struct {
	mu    sync.RWMutex
	ids   map[string]uint32
	keys  []string
	days  map[event.Day]*cachedDay
	bytes int
}

type cachedDay struct {
	version string
	types   map[string]uint64
	rollups map[meter.Rollup]cachedRollup
	bytes   int
}

type cachedRollup struct {
	cells packed
	// whole says that the day still had its version when all had been read. Otherwise the cells may be those of a later version.
	// The question that they were read for is answered with them; but a store that is rolled back has the earlier
	// version again, and other cells.
	whole bool
}

// packed are the cells of one rollup and day, in ascending order of the keys' numbers: per cell the distance to the
// number before and the total, both as uvarints.
type packed []byte

// keyOverhead is about what a key takes beside its own bytes: its string header twice, its number, its map slot.
const keyOverhead = 60

func newCache() *cache {
	c := &cache{}
	c.clear()
	return c
}

// clear forgets everything. c.mu is held, or c is new.
func (c *cache) clear() {
	c.ids, c.keys, c.days, c.bytes = map[string]uint32{}, nil, map[event.Day]*cachedDay{}, 0
}

// keep forgets the days before oldest, and everything where the keys of past days have filled half of the room.
func (c *cache) keep(oldest event.Day) {
	c.mu.Lock()
	defer c.mu.Unlock()
	gone := false
	for day, d := range c.days {
		if day < oldest {
			c.drop(day, d)
			gone = true
		}
	}
	if gone && c.bytes > maxCacheBytes/2 {
		c.clear()
	}
}

func (c *cache) drop(day event.Day, d *cachedDay) {
	c.bytes -= d.bytes
	delete(c.days, day)
}

// size returns about how much memory the cache takes.
func (c *cache) size() int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.bytes
}

// types returns the events per type of a day.
func (c *cache) types(day event.Day, version string) (map[string]uint64, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	d := c.days[day]
	if d == nil || d.version != version || d.types == nil {
		return nil, false
	}
	return d.types, true
}

// setTypes keeps the events per type of a day, which nobody may change any more.
func (c *cache) setTypes(day event.Day, version string, types map[string]uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bytes < maxCacheBytes {
		c.day(day, version).types = types
	}
}

// day returns the entry of a day under a version, a new one where there is none. c.mu is held.
func (c *cache) day(day event.Day, version string) *cachedDay {
	d := c.days[day]
	if d != nil && d.version == version {
		return d
	}
	if d != nil {
		c.drop(day, d)
	}
	d = &cachedDay{version: version, rollups: map[meter.Rollup]cachedRollup{}}
	c.days[day] = d
	return d
}

// has says whether the cells of a rollup are there. Where they were not read whole, and the day has the version again that they
// were put under, it forgets them.
func (c *cache) has(day event.Day, version string, rollup meter.Rollup) bool {
	c.mu.RLock()
	r, found := c.find(day, version, rollup)
	c.mu.RUnlock()
	if !found || r.whole {
		return found
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	r, found = c.find(day, version, rollup)
	if found && !r.whole {
		c.set(c.days[day], rollup, cachedRollup{})
		delete(c.days[day].rollups, rollup)
	}
	return found && r.whole
}

// find returns the cells of a rollup. c.mu is held.
func (c *cache) find(day event.Day, version string, rollup meter.Rollup) (r cachedRollup, found bool) {
	d := c.days[day]
	if d == nil || d.version != version {
		return r, false
	}
	r, found = d.rollups[rollup]
	return r, found
}

// put packs the cells of a rollup, and does nothing where there is no room.
func (c *cache) put(p place, cells *cellList, whole bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bytes >= maxCacheBytes {
		return
	}
	numbered := make([]numberedCell, 0, len(cells.totals))
	for i, total := range cells.totals {
		numbered = append(numbered, numberedCell{c.number(cells.key(i)), total})
	}
	slices.SortFunc(numbered, func(a, b numberedCell) int { return int(a.id) - int(b.id) })
	var buf []byte
	before := uint32(0)
	for _, cell := range numbered {
		buf = binary.AppendUvarint(buf, uint64(cell.id-before))
		buf = binary.AppendUvarint(buf, cell.total)
		before = cell.id
	}
	c.set(c.day(p.day, p.version), p.rollup, cachedRollup{slices.Clip(buf), whole})
}

// number returns the number of a key, a new one where it has none. c.mu is held.
func (c *cache) number(key []byte) uint32 {
	id, ok := c.ids[string(key)]
	if !ok {
		id = uint32(len(c.keys))
		name := string(key)
		c.ids[name] = id
		c.keys = append(c.keys, name)
		c.bytes += len(key) + keyOverhead
	}
	return id
}

// set keeps the cells of a rollup. c.mu is held.
func (c *cache) set(d *cachedDay, rollup meter.Rollup, r cachedRollup) {
	more := len(r.cells) - len(d.rollups[rollup].cells)
	d.rollups[rollup] = r
	d.bytes += more
	c.bytes += more
}

type numberedCell struct {
	id    uint32
	total uint64
}

// sum adds up rollups over days. Cells that are not there are left out: the caller has made sure that they are, or adds them
// itself.
type sum struct {
	keys   []string // the dictionary as it was
	totals []uint64 // by number of the key; one more than the total, 0 where the key did not occur
	ids    []uint32 // that occurred
}

// sumOf adds up what the cache has of a rollup. missing lists the days that it has not.
func (c *cache) sumOf(rollups []meter.Rollup, days []event.Day, versions []string) (total *sum, missing map[meter.Rollup][]event.Day) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	s := &sum{keys: c.keys, totals: make([]uint64, len(c.keys))}
	missing = map[meter.Rollup][]event.Day{}
	for i, day := range days {
		if versions[i] == "" {
			continue
		}
		for _, rollup := range rollups {
			if r, found := c.find(day, versions[i], rollup); found {
				s.add(r.cells)
				continue
			}
			missing[rollup] = append(missing[rollup], day)
		}
	}
	return s, missing
}

func (s *sum) add(cells packed) {
	id := uint64(0)
	for len(cells) > 0 {
		step, n := binary.Uvarint(cells)
		cells = cells[n:]
		total, n := binary.Uvarint(cells)
		cells = cells[n:]
		id += step
		if s.totals[id] == 0 {
			s.totals[id] = 1
			s.ids = append(s.ids, uint32(id))
		}
		s.totals[id] += total
	}
}

// list returns the totals by key.
func (s *sum) list() []Total {
	list := make([]Total, len(s.ids))
	for i, id := range s.ids {
		list[i] = Total{Key: s.keys[id], N: s.totals[id] - 1}
	}
	return list
}

// cellList collects cells whose keys are only lent.
type cellList struct {
	bytes  []byte
	ends   []int
	totals []uint64
}

func (l *cellList) append(key []byte, total uint64) {
	l.bytes = append(l.bytes, key...)
	l.ends = append(l.ends, len(l.bytes))
	l.totals = append(l.totals, total)
}

func (l *cellList) key(i int) []byte {
	begin := 0
	if i > 0 {
		begin = l.ends[i-1]
	}
	return l.bytes[begin:l.ends[i]]
}
