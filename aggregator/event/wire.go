package event

import (
	"encoding/binary"
	"errors"
	"iter"
	"time"
)

// An encoded event, as the journal keeps it. Strings are a uvarint length and bytes.
//
//	byte     flags: 1 id, 2 source, 4 created_at, 8 the id names an event of its type, 16 posted by role user,
//	         32 its type, 64 its labels, 128 its references are counted under Other, see Excess
//	uvarint  accepted_at, Unix milliseconds
//	varint   created_at, Unix nanoseconds        only with flag 4; otherwise it is accepted_at
//	string   token
//	string   event_type
//	string   user_id
//	string   id                                  only with flag 1
//	string   source                              only with flag 2
//	uvarint  number of metadata pairs
//	string × 2 per pair: key, value
//
// Entries with an id and without flag 8 are of versions in which an id named one event of its user whatever the type. They do
// not say which role posted them either.
//
// An id that the server makes is not stored: ServerID derives it from the event's place in the journal.
const (
	flagID = 1 << iota
	flagSource
	flagCreated
	flagTypedID
	flagBound
	flagOtherType
	flagOtherLabels
	flagOtherReferences
)

var errEncoding = errors.New("not an encoded event")

// View reads an encoded event in place. Its slices point into the entry.
type View struct {
	// AcceptedMillis is accepted_at in Unix milliseconds, CreatedNanos created_at in Unix nanoseconds.
	AcceptedMillis int64
	CreatedNanos   int64

	Token, Type, UserID, Source []byte
	// ID is empty where the client sent none.
	ID []byte
	// TypedID says that ID names one event of this user and type. Otherwise it is of an older version, in which it named one
	// event of this user.
	TypedID bool
	// Bound says that the poster had the role user, which posts only as itself. Where TypedID is false it is not known.
	Bound bool
	// Counted is the type under which the event is counted: Type, or Other. Excess says what else of it is counted under Other.
	Counted []byte
	Excess  Excess

	pairs int
	meta  []byte
}

// Parse reads an encoded event.
func Parse(entry []byte, v *View) error {
	if len(entry) == 0 {
		return errEncoding
	}
	flags := entry[0]
	r := reader{buf: entry[1:]}
	v.AcceptedMillis = int64(r.uvarint())
	v.CreatedNanos = v.AcceptedMillis * int64(time.Millisecond)
	if flags&flagCreated != 0 {
		v.CreatedNanos = r.varint()
	}
	v.Token, v.Type, v.UserID = r.bytes(), r.bytes(), r.bytes()
	v.ID, v.Source = nil, nil
	v.Counted, v.Excess = v.Type, Excess(flags>>excessShift)
	if v.Excess&ExcessType != 0 {
		v.Counted = other
	}
	v.TypedID, v.Bound = flags&flagTypedID != 0, flags&flagBound != 0
	if flags&flagID != 0 {
		v.ID = r.bytes()
	}
	if flags&flagSource != 0 {
		v.Source = r.bytes()
	}
	pairs := r.uvarint()
	if r.bad || pairs > MaxMetadataKeys {
		return errEncoding
	}
	v.pairs, v.meta = int(pairs), r.buf
	for range pairs {
		r.bytes()
		r.bytes()
	}
	if r.bad || len(r.buf) != 0 {
		return errEncoding
	}
	return nil
}

// Day is the UTC day that the event counts under.
func (v *View) Day() Day {
	secs := v.CreatedNanos / int64(time.Second)
	if v.CreatedNanos < 0 {
		return DayOf(time.Unix(0, v.CreatedNanos))
	}
	return Day(secs / secondsPerDay)
}

// Pairs is the number of metadata pairs.
func (v *View) Pairs() int { return v.pairs }

// Metadata iterates over the metadata in the order in which it was sent.
func (v *View) Metadata() iter.Seq2[[]byte, []byte] {
	return func(yield func(key, value []byte) bool) {
		r := reader{buf: v.meta}
		for range v.pairs {
			key := r.bytes()
			if !yield(key, r.bytes()) {
				return
			}
		}
	}
}

// Value is the metadata value of a key, nil where there is none.
func (v *View) Value(key string) []byte {
	for k, value := range v.Metadata() {
		if string(k) == key {
			return value
		}
	}
	return nil
}

// Event copies the event out. producer and seq are its place in the journal, from which the id is derived where the
// client sent none.
func (v *View) Event(producer string, seq uint64) Event {
	e := Event{
		ID:         string(v.ID),
		ClientID:   len(v.ID) > 0,
		UserID:     string(v.UserID),
		Type:       string(v.Type),
		Source:     string(v.Source),
		Token:      string(v.Token),
		CreatedAt:  time.Unix(0, v.CreatedNanos).UTC(),
		AcceptedAt: time.UnixMilli(v.AcceptedMillis).UTC(),
		Metadata:   make(map[string]string, v.pairs),
	}
	if !e.ClientID {
		e.ID = ServerID(producer, seq, e.AcceptedAt)
	}
	for key, value := range v.Metadata() {
		e.Metadata[string(key)] = string(value)
	}
	return e
}

// ServerID returns the id of an event that was sent without one: a UUIDv7 (RFC 9562) of the time of acceptance whose
// other 74 bits are a hash of the producer and the sequence number. The same event has the same id on every reading.
func ServerID(producer string, seq uint64, acceptedAt time.Time) string {
	return string(appendServerID(nil, producer, seq, acceptedAt.UnixMilli()))
}

func appendBytes(dst, b []byte) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(b))), b...)
}

func appendString(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

// reader consumes an encoded event. After a fault it returns zero values and bad is set.
type reader struct {
	buf []byte
	bad bool
}

func (r *reader) uvarint() uint64 {
	x, n := binary.Uvarint(r.buf)
	if n <= 0 {
		r.bad = true
		return 0
	}
	r.buf = r.buf[n:]
	return x
}

func (r *reader) varint() int64 {
	x, n := binary.Varint(r.buf)
	if n <= 0 {
		r.bad = true
		return 0
	}
	r.buf = r.buf[n:]
	return x
}

func (r *reader) bytes() []byte {
	// Nearly every length is one byte.
	if len(r.buf) > 0 && r.buf[0] < 0x80 && int(r.buf[0]) < len(r.buf) {
		n := int(r.buf[0])
		b := r.buf[1 : 1+n : 1+n]
		r.buf = r.buf[1+n:]
		return b
	}
	n := r.uvarint()
	if r.bad || n > uint64(len(r.buf)) {
		r.bad = true
		return nil
	}
	b := r.buf[:n:n]
	r.buf = r.buf[n:]
	return b
}
