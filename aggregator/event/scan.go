package event

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// This file is the quick way through a body. Nearly every event that arrives is plain: an object of known keys, each
// there once, whose values are strings without a fault. Such an event is read in one pass, without a token being built.
//
// The quick way judges nothing. Whatever isn't plain, an unknown key, a number, a limit that is exceeded, an escaped key, a
// syntax error, goes to the jsontext decoder, whose answer is the only one that clients see. FuzzPlain holds the two ways equal.

// readQuickly reads a body that is one object, or an array of objects. It returns false where the JSON around the events
// is not as expected. What was read until then counts for nothing.
func (d *Decoder) readQuickly(body []byte) bool {
	if !utf8.Valid(body) {
		return false
	}
	s := scanner{rest: body}
	if s.next() == '{' {
		d.batch.Single = true
		return d.readPlain(&s) && s.next() == 0 && len(s.rest) == 0
	}
	if !s.skip('[') {
		return false
	}
	for element := 0; ; element++ {
		if d.batch.N == MaxBatchEvents {
			return false
		}
		if !d.readPlain(&s) && !d.readElement(&s, element) {
			return false
		}
		if !s.skip(',') {
			return s.skip(']') && s.next() == 0 && len(s.rest) == 0
		}
	}
}

// readPlainLine reads a line that is one plain event. Where it returns false nothing was read.
func (d *Decoder) readPlainLine(line []byte) bool {
	s := scanner{rest: line}
	if !d.scanEvent(&s) || s.next() != 0 || len(s.rest) > 0 || !d.plausible() {
		return false
	}
	d.append(&d.plain)
	return true
}

// readElement reads an element of an array that is not plain, by way of jsontext. It returns false where that finds a
// syntax error.
func (d *Decoder) readElement(s *scanner, element int) bool {
	d.loadEscaped(s.rest)
	d.line = element
	ok := d.readEvent()
	d.line = -1
	s.rest = s.rest[d.dec.InputOffset():]
	return ok
}

// readPlain reads a plain event and appends it to the batch. Where it returns false, s and the batch are unchanged.
func (d *Decoder) readPlain(s *scanner) bool {
	ahead := *s
	if !d.scanEvent(&ahead) || !d.plausible() {
		return false
	}
	d.append(&d.plain)
	*s = ahead
	return true
}

// scanEvent reads the next event into d.plain, whose slices then point into the body.
func (d *Decoder) scanEvent(s *scanner) bool {
	d.plain = fields{meta: d.plain.meta[:0]}
	if !s.skip('{') {
		return false
	}
	for {
		name, ok := s.text()
		if !ok || !s.skip(':') || !d.scanField(s, name) {
			return false
		}
		if !s.skip(',') {
			return s.skip('}')
		}
	}
}

// scanField reads the value of a field of an event.
func (d *Decoder) scanField(s *scanner, name []byte) bool {
	f := &d.plain
	switch string(name) {
	case "id":
		return f.scanString(s, hasID, &f.id, MaxIDBytes)
	case "user_id":
		return f.scanString(s, hasUser, &f.user, MaxUserIDBytes)
	case "event_type":
		return f.scanString(s, hasType, &f.typ, MaxTypeBytes)
	case "source":
		return f.scanString(s, hasSource, &f.source, MaxSourceBytes)
	case "created_at":
		return d.scanCreated(s)
	case "metadata":
		return d.scanMetadata(s)
	}
	return false
}

// scanString reads a string of at most limit bytes, where the event has not had that field before.
func (f *fields) scanString(s *scanner, field fieldSet, value *[]byte, limit int) bool {
	text, ok := s.text()
	*value = text
	return ok && f.first(field) && len(text) <= limit
}

// first says whether a field is there for the first time.
func (f *fields) first(field fieldSet) bool {
	before := f.seen
	f.seen |= field
	return before&field == 0
}

func (d *Decoder) scanCreated(s *scanner) bool {
	text, ok := s.text()
	if !ok || !d.plain.first(hasCreated) || d.origin.Bound {
		return false
	}
	t, ok := parseTime(text)
	d.plain.created = t.UnixNano()
	return ok && !t.After(d.latest) && DayOf(t) >= d.origin.Oldest
}

// maxScannedKeys is how many keys of metadata are compared with one another. Where there are more, jsontext's set of them
// is quicker.
const maxScannedKeys = 16

func (d *Decoder) scanMetadata(s *scanner) bool {
	if !d.plain.first(hasMetadata) || !s.skip('{') {
		return false
	}
	if s.skip('}') {
		return true
	}
	d.keys = d.keys[:0]
	for {
		if !d.scanPair(s) {
			return false
		}
		if !s.skip(',') {
			return s.skip('}') && d.plain.metaBytes <= MaxMetadataBytes
		}
	}
}

// scanPair reads a key of metadata and its value. The key has no escapes; the value may have some.
func (d *Decoder) scanPair(s *scanner) bool {
	key, ok := s.text()
	if !ok || len(key) > MaxMetadataKeyBytes || len(d.keys) == maxScannedKeys || !s.skip(':') {
		return false
	}
	for _, other := range d.keys {
		if bytes.Equal(key, other) {
			return false
		}
	}
	d.keys = append(d.keys, key)
	value, ok := s.text()
	if !ok {
		if value, ok = d.scanEscaped(s); !ok {
			return false
		}
	}
	if len(value) > MaxMetadataValueBytes {
		return false
	}
	f := &d.plain
	f.meta = appendBytes(appendBytes(f.meta, key), value)
	f.metaKeys++
	f.metaBytes += len(key) + len(value)
	return true
}

// scanEscaped reads a string that has escapes. The text is valid until the next call.
func (d *Decoder) scanEscaped(s *scanner) (text []byte, ok bool) {
	quoted, ok := s.quoted()
	if !ok {
		return nil, false
	}
	var err error
	d.unescaped, err = jsontext.AppendUnquote(d.unescaped[:0], quoted)
	return d.unescaped, err == nil
}

// plausible says whether d.plain is without a fault, and finds the slot of its type.
func (d *Decoder) plausible() bool {
	f := &d.plain
	if d.slot = d.slotOf(f.typ); d.slot < 0 && !validType(f.typ) {
		return false
	}
	if f.empty(hasID, f.id) || f.empty(hasUser, f.user) {
		return false
	}
	return !d.origin.Bound || len(f.user) == 0 || string(f.user) == d.origin.User
}

// validType says whether an event may have a type.
func validType(typ []byte) bool {
	return len(typ) > 0 && !bytes.HasPrefix(typ, []byte("__")) && !bytes.ContainsFunc(typ, unicode.IsControl)
}

// scanner walks over valid UTF-8.
type scanner struct{ rest []byte }

// next passes over white space and returns the byte behind it without taking it, 0 at the end.
func (s *scanner) next() byte {
	for i, c := range s.rest {
		if c != ' ' && c != '\n' && c != '\t' && c != '\r' {
			s.rest = s.rest[i:]
			return c
		}
	}
	s.rest = nil
	return 0
}

// skip takes the next byte behind white space where it is c, and says whether it was.
func (s *scanner) skip(c byte) bool {
	if s.next() != c {
		return false
	}
	s.rest = s.rest[1:]
	return true
}

// text takes a string without escapes. Where the next value is another one it takes nothing.
func (s *scanner) text() (text []byte, ok bool) {
	if s.next() != '"' {
		return nil, false
	}
	inner := s.rest[1:]
	n := plainLen(inner)
	if n == len(inner) || inner[n] != '"' {
		return nil, false
	}
	s.rest = inner[n+1:]
	return inner[:n:n], true
}

// quoted takes a string with its quotes. Whether its escapes are valid is not looked at.
func (s *scanner) quoted() (quoted []byte, ok bool) {
	if s.next() != '"' {
		return nil, false
	}
	n := 1
	for {
		n += plainLen(s.rest[n:])
		switch {
		case n >= len(s.rest):
			return nil, false
		case s.rest[n] == '"':
			quoted, s.rest = s.rest[:n+1], s.rest[n+1:]
			return quoted, true
		case s.rest[n] != '\\' || n+2 > len(s.rest):
			return nil, false
		}
		n += 2
	}
}

// plainLen returns how many bytes of b a JSON string can hold as they are: those before the first quote, backslash or
// control character. It looks at eight bytes at a time.
func plainLen(b []byte) int {
	const (
		ones  = 0x0101010101010101
		highs = 0x8080808080808080
	)
	n := 0
	for ; len(b)-n >= 8; n += 8 {
		w := binary.LittleEndian.Uint64(b[n:])
		quote, slash := w^ones*'"', w^ones*'\\'
		// Of the lowest byte that is sought the high bit is set here: subtracting borrows where a byte of quote or slash
		// is zero, and where a byte of w is below a blank. Bytes above it may have it set for no reason.
		found := ((quote-ones)&^quote | (slash-ones)&^slash | (w-ones*' ')&^w) & highs
		if found != 0 {
			return n + bits.TrailingZeros64(found)/8
		}
	}
	for ; n < len(b); n++ {
		if b[n] == '"' || b[n] == '\\' || b[n] < ' ' {
			break
		}
	}
	return n
}
