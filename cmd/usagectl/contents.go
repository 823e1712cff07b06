package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
)

// contents tells the records of a file apart by what they say, so that an id made of it is the same wherever the record lies: in a file
// that has grown since, that was renamed, compressed, or cut at its beginning. Of records that say the same the second is another one.
//
// A filter of fixed size knows which contents were met once, since nearly all are met only once; a map counts the others. Whether the
// filter takes a new content for one that was met follows from the records before alone, so that it is the same for each reading.
type contents struct {
	filter []uint64
	again  map[uint64]int // times that a content was met after the first
	first  [sha256.Size]byte
	any    bool
}

const (
	filterBits   = 1 << 28 // 32 MiB
	filterHashes = 4
)

func (c *contents) reset() { *c = contents{} }

// content is what a record says.
type content struct {
	digest, first [sha256.Size]byte
	again         int // how often it was met before
}

// of returns the content of the record that was read.
func (c *contents) of(text []byte) content {
	out := content{digest: sha256.Sum256(bytes.TrimSpace(text))}
	if !c.any {
		c.any, c.first = true, out.digest
		c.filter, c.again = make([]uint64, filterBits/64), map[uint64]int{}
	}
	out.first = c.first
	met := true
	for i := range filterHashes {
		bit := binary.LittleEndian.Uint32(out.digest[4*i:]) % filterBits
		met = met && c.filter[bit/64]>>(bit%64)&1 == 1
		c.filter[bit/64] |= 1 << (bit % 64)
	}
	if met {
		key := binary.LittleEndian.Uint64(out.digest[16:])
		c.again[key]++
		out.again = c.again[key]
	}
	return out
}

// id names the record. One that says when it happened is the same in every file. One that does not is that of files alone that begin with
// the same record: two files may well say the same of two events.
func (c *content) id(dated bool) string {
	if dated {
		return hex.EncodeToString(c.digest[:])[:digestDigits]
	}
	sum := sha256.Sum256(append(bytes.Clone(c.first[:]), c.digest[:]...))
	return hex.EncodeToString(sum[:])[:digestDigits]
}
