package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/google/uuid"
)

const (
	formatVersion = 1
	headerBytes   = 42
	// checkedFrom is where the part of a record begins that its checksum covers.
	checkedFrom = 5
	// openingBytes is what the mark at the beginning of a segment takes in the file. It is too short to be compressed.
	openingBytes = fragmentHeaderBytes + headerBytes
)

// kind says what a record is, as stored in it.
type kind byte

const (
	kindEvents kind = 1
	kindNote   kind = 2
	// kindMark says only which number comes next.
	kindMark kind = 3
	// kindGap is a mark behind events that are lost.
	kindGap kind = 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// header is the fixed part of a record.
type header struct {
	kind     kind
	producer uuid.UUID
	// first is the number of the first event or, in other kinds, of the event to come.
	first       uint64
	n           int
	stampMillis int64
}

// next is the number of the first event behind the record.
func (h header) next() uint64 { return h.first + uint64(h.n) }

// appendTo appends the encoded header with the checksum left open. The body goes behind it, and then seal.
func (h header) appendTo(dst []byte) []byte {
	dst = append(dst, formatVersion, 0, 0, 0, 0, byte(h.kind))
	dst = append(dst, h.producer[:]...)
	dst = binary.BigEndian.AppendUint64(dst, h.first)
	dst = binary.BigEndian.AppendUint32(dst, uint32(h.n))
	return binary.BigEndian.AppendUint64(dst, uint64(h.stampMillis))
}

// seal fills in the checksum of a complete record.
func seal(record []byte) {
	sum := crc32.Checksum(record[checkedFrom:], castagnoli)
	binary.BigEndian.PutUint32(record[1:], sum)
}

var errNotOurs = errors.New("not a record of the journal")

// parseRecord splits a record. The body aliases it.
func parseRecord(b []byte) (h header, body []byte, err error) {
	if len(b) < headerBytes {
		return h, nil, errNotOurs
	}
	if b[0] != formatVersion {
		return h, nil, fmt.Errorf("record has format version %d, want %d", b[0], formatVersion)
	}
	if sum := crc32.Checksum(b[checkedFrom:], castagnoli); sum != binary.BigEndian.Uint32(b[1:]) {
		return h, nil, fmt.Errorf("record has the checksum %08x, want %08x", sum, b[1:5])
	}
	h.kind = kind(b[5])
	copy(h.producer[:], b[6:])
	h.first = binary.BigEndian.Uint64(b[22:])
	h.n = int(binary.BigEndian.Uint32(b[30:]))
	h.stampMillis = int64(binary.BigEndian.Uint64(b[34:]))
	body = b[headerBytes:]
	if h.kind < kindEvents || h.kind > kindGap || h.first == 0 || (h.kind == kindEvents) != (h.n > 0) {
		return h, nil, errNotOurs
	}
	return h, body, nil
}

// Record is what was written in one commit.
type Record struct {
	// Producer is the id of the journal that wrote it, Segment where it lies, At when it was committed.
	Producer string
	Segment  int
	At       time.Time
	// First is the number of the first entry, N their number. In a note N is 0 and First the number of the next event.
	First uint64
	N     int
	// Entries are the entries as appended: see [Record.Each]. A record is returned whole, so the first one of a Reader
	// may begin before the event asked for: the caller skips what it has.
	Entries []byte
	// Note is the payload of a note, nil for events.
	Note []byte
	// Gap is the number of events missing immediately before First because of damage.
	Gap uint64
}

// Each calls yield for every entry with its number, until it returns false. An entry of length 0 was blanked. Use it in
// a range statement: for seq, entry := range rec.Each. The entry is valid as long as the record.
func (r *Record) Each(yield func(seq uint64, entry []byte) bool) {
	rest := r.Entries
	for i := range r.N {
		entry, tail, ok := cutEntry(rest)
		if !ok || !yield(r.First+uint64(i), entry) {
			return
		}
		rest = tail
	}
}

// AppendEntry appends an entry to the entries of a batch.
func AppendEntry(dst, entry []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(entry)))
	return append(dst, entry...)
}

// cutEntry cuts the first entry off b.
func cutEntry(b []byte) (entry, tail []byte, ok bool) {
	size, n := binary.Uvarint(b)
	if n <= 0 || size > uint64(len(b)-n) {
		return nil, nil, false
	}
	end := n + int(size)
	return b[n:end:end], b[end:], true
}
