package rollup

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"syscall"

	"usaged/aggregator/durable"
	"usaged/aggregator/event"
	"usaged/aggregator/meter"
)

// The cache's file carries days over a restart, so that the first answers are as quick as the later ones. It decides
// nothing: what it holds counts under the versions that it was read under, like anything in the cache. A store that has changed
// meanwhile, or is another, has other versions, and is read. A file that is damaged or gone is an empty cache.
//
//	"usaged days 1\n"
//	number of keys, each key
//	number of days, each day:
//	    number of the day, version
//	    number of types, each type: name, events
//	    number of rollups, each rollup: type, meter, dimension, cells as in packed
//	CRC-32C of all before, 4 bytes, big endian
//
// Numbers are uvarints; keys, versions, names and cells are their length and their bytes.
const cacheHeader = "usaged days 1\n"

const (
	// maxCacheFileBytes is more than a full cache takes in its file.
	maxCacheFileBytes = 2 * maxCacheBytes
	// cacheShare: the file takes at most a tenth of the free space, since the rest may be the journal's next hours.
	cacheShare = 10
)

var (
	errCacheFile = errors.New("it is damaged or of another version, and will be written anew")
	errCacheRoom = errors.New("it would take more than a tenth of the free space; make room")
	castagnoli   = crc32.MakeTable(crc32.Castagnoli)
)

// save writes what was read whole.
func (c *cache) save(path string) error {
	data := c.encode()
	var st syscall.Statfs_t
	if err := syscall.Statfs(filepath.Dir(path), &st); err != nil {
		return fmt.Errorf("look for free space: %w", err)
	}
	if st.Bavail*uint64(st.Bsize)/cacheShare < uint64(len(data)) {
		return errCacheRoom
	}
	return durable.WriteFile(path, data, 0o640)
}

// encode returns the cache in the form of its file.
func (c *cache) encode() []byte {
	keys, days, size := c.snapshot()
	buf := append(make([]byte, 0, size), cacheHeader...)
	buf = binary.AppendUvarint(buf, uint64(len(keys)))
	for _, key := range keys {
		buf = appendText(buf, key)
	}
	buf = binary.AppendUvarint(buf, uint64(len(days)))
	for day, d := range days {
		buf = binary.AppendUvarint(buf, uint64(day))
		buf = appendText(buf, d.version)
		buf = binary.AppendUvarint(buf, uint64(len(d.types)))
		for name, n := range d.types {
			buf = appendText(buf, name)
			buf = binary.AppendUvarint(buf, n)
		}
		buf = binary.AppendUvarint(buf, uint64(len(d.rollups)))
		for rollup, r := range d.rollups {
			buf = appendText(buf, rollup.Type)
			buf = appendText(buf, rollup.Meter)
			buf = appendText(buf, string(rollup.Dim))
			buf = appendText(buf, r.cells)
		}
	}
	return binary.BigEndian.AppendUint32(buf, crc32.Checksum(buf, castagnoli))
}

func appendText[T string | packed](buf []byte, text T) []byte {
	return append(binary.AppendUvarint(buf, uint64(len(text))), text...)
}

// snapshot returns the dictionary, of the days what was read whole, and about how many bytes both take. What it returns
// does not change any more, so that nobody has to wait while it is written.
func (c *cache) snapshot() (keys []string, days map[event.Day]*cachedDay, size int) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	days = make(map[event.Day]*cachedDay, len(c.days))
	for day, d := range c.days {
		whole := make(map[meter.Rollup]cachedRollup, len(d.rollups))
		for rollup, r := range d.rollups {
			if r.whole {
				whole[rollup] = r
			}
		}
		if d.types != nil && len(whole) > 0 {
			days[day] = &cachedDay{version: d.version, types: d.types, rollups: whole}
		}
	}
	return c.keys, days, c.bytes
}

// load reads into an empty cache, which an error leaves empty.
func (c *cache) load(path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Size() > maxCacheFileBytes {
		return errCacheFile
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	read := newCache()
	if !read.decode(data) {
		return errCacheFile
	}
	c.ids, c.keys, c.days, c.bytes = read.ids, read.keys, read.days, read.bytes
	return nil
}

// decode reads the form of a file into an empty cache. It returns false where it is not one, and has then read a part.
func (c *cache) decode(data []byte) bool {
	end := len(data) - crc32.Size
	if end < 0 || crc32.Checksum(data[:end], castagnoli) != binary.BigEndian.Uint32(data[end:]) {
		return false
	}
	data, ok := bytes.CutPrefix(data[:end], []byte(cacheHeader))
	d := &cacheDecoder{data: data, bad: !ok}
	for range d.count() {
		c.number(d.text())
	}
	for range d.count() {
		day := c.day(event.Day(d.number()), string(d.text()))
		day.types = map[string]uint64{}
		for range d.count() {
			name := string(d.text())
			day.types[name] = d.number()
		}
		for range d.count() {
			rollup := meter.Rollup{Type: string(d.text()), Meter: string(d.text()), Dim: meter.Dim(d.text())}
			cells := packed(d.text())
			if d.bad = d.bad || !cells.within(len(c.keys)); d.bad {
				return false
			}
			c.set(day, rollup, cachedRollup{bytes.Clone(cells), true})
		}
	}
	return !d.bad && len(d.data) == 0
}

// within says that the cells are well formed, and of keys below a number.
func (p packed) within(keys int) bool {
	id := uint64(0)
	for len(p) > 0 {
		step, n := binary.Uvarint(p)
		if n <= 0 || step > math.MaxUint32 {
			return false
		}
		_, m := binary.Uvarint(p[n:])
		if m <= 0 {
			return false
		}
		p = p[n+m:]
		if id += step; id >= uint64(keys) {
			return false
		}
	}
	return true
}

// cacheDecoder reads what lies ahead. Where that is not of the form expected it is bad, and returns nothing from then on.
type cacheDecoder struct {
	data []byte
	bad  bool
}

func (d *cacheDecoder) number() uint64 {
	v, n := binary.Uvarint(d.data)
	if d.bad = d.bad || n <= 0; d.bad {
		return 0
	}
	d.data = d.data[n:]
	return v
}

// count reads the number of things that follow, of which each takes a byte or more.
func (d *cacheDecoder) count() int {
	n := d.number()
	if d.bad = d.bad || n > uint64(len(d.data)); d.bad {
		return 0
	}
	return int(n)
}

// text returns bytes that are only lent.
func (d *cacheDecoder) text() []byte {
	n := d.count()
	text := d.data[:n]
	d.data = d.data[n:]
	return text
}
