package event

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// Format is the form of a request body.
type Format int

const (
	// JSON is one event (an object), or an array of events.
	JSON Format = iota
	// NDJSON is one event a line. Blank lines are skipped.
	NDJSON
)

// Origin is what is known of a request before its events are read.
type Origin struct {
	// Token is the name of the poster's token.
	Token string
	// User counts where an event names no user.
	User string
	// Bound says that the poster has the role user: it may neither name another user nor set created_at, and its ids are
	// compared only with those that this role sent.
	Bound bool
	// AcceptedAt is the server's time.
	AcceptedAt time.Time
	// Latest is what the clock of a sender may say who is right, where that is later than AcceptedAt: the server's own wall clock
	// may be ahead of the time by which it stamps.
	Latest time.Time
	// Oldest is the oldest UTC day inside the retention window.
	Oldest Day
}

// Batch is the events of one request, encoded (see [View] for the form).
type Batch struct {
	// N is the number of events.
	N int
	// IDs is the number of those whose sender chose their id.
	IDs int
	// Single says that the body was one JSON object.
	Single bool
	// Entries are the encoded events, each behind its length as a uvarint.
	Entries []byte
	// Types counts the events per type, in the order of their first appearance.
	Types []TypeCount
	// AcceptedAt is when they were accepted.
	AcceptedAt time.Time
}

// TypeCount is a number of events of one type.
type TypeCount struct {
	Type string
	N    int
}

// Decoder decodes request bodies. It is not safe for concurrent use and is meant to be pooled: the batch that Decode
// returns lives in the decoder's buffers.
//
// The JSON itself is read by jsontext, which refuses what encoding/json lets pass: repeated keys, invalid UTF-8, data
// behind the value. The decoder walks its tokens and appends each event to the batch without building it.
type Decoder struct {
	dec     *jsontext.Decoder
	src     bytes.Buffer
	escapes bool // somewhere in src a string has an escape
	origin  Origin
	faults  Faults
	batch   Batch

	accepted uint64 // origin.AcceptedAt in Unix milliseconds
	latest   time.Time

	// The event being read: fields where jsontext reads it, plain where it is read the quick way.
	fields
	bad   fieldSet // fields that were refused
	line  int      // its number in the body where dec began with it and not with the body; otherwise -1
	entry []byte

	// Of the quick way: see scan.go.
	plain     fields
	keys      [][]byte // of the metadata being read
	unescaped []byte

	// Types of this decoder's life, so that names are allocated once. touched lists those of the current batch.
	slots   map[string]int
	slot    int // of the event being read, −1 where its type is new
	counts  []TypeCount
	touched []int
}

// fields are the values of one event.
type fields struct {
	id, user, typ, source []byte
	meta                  []byte // encoded pairs
	metaKeys              int
	metaBytes             int      // of keys and values
	created               int64    // Unix nanoseconds
	seen                  fieldSet // fields that were sent
}

// maxKnownTypes bounds the type names that a decoder remembers from one body to the next.
const maxKnownTypes = 1024

// NewDecoder returns a decoder.
func NewDecoder() *Decoder {
	d := &Decoder{slots: map[string]int{}}
	d.dec = jsontext.NewDecoder(&d.src)
	return d
}

// Decode reads the events of a body. All of them are valid, or the error is a [*Faults] that names what is wrong. The
// batch is valid until the next call.
func (d *Decoder) Decode(body []byte, format Format, origin Origin) (*Batch, error) {
	d.reset(origin)
	switch {
	case format == NDJSON:
		d.readLines(body, utf8.Valid(body))
	case !d.readQuickly(body):
		d.reset(origin)
		d.readBody(body)
	}
	return d.result()
}

// result returns what was read, or what was wrong with it.
func (d *Decoder) result() (*Batch, error) {
	if d.faults.Total > 0 {
		faults := d.faults
		faults.List = slices.Clone(faults.List)
		return nil, &faults
	}
	for _, i := range d.touched {
		d.batch.Types = append(d.batch.Types, d.counts[i])
	}
	return &d.batch, nil
}

func (d *Decoder) reset(origin Origin) {
	d.origin = origin
	d.accepted = uint64(origin.AcceptedAt.UnixMilli())
	d.latest = origin.AcceptedAt.Add(MaxFuture)
	if latest := origin.Latest.Add(MaxFuture); latest.After(d.latest) {
		d.latest = latest
	}
	d.faults = Faults{List: d.faults.List[:0]}
	d.batch = Batch{Entries: d.batch.Entries[:0], Types: d.batch.Types[:0], AcceptedAt: origin.AcceptedAt}
	d.line = -1
	for _, i := range d.touched {
		d.counts[i].N = 0
	}
	d.touched = d.touched[:0]
	if len(d.counts) > maxKnownTypes {
		clear(d.slots)
		d.counts = d.counts[:0]
	}
}

func (d *Decoder) load(data []byte) {
	d.loadEscaped(data)
	d.escapes = bytes.IndexByte(data, '\\') >= 0
}

// loadEscaped is load without a look at all of data, of which perhaps only a little will be read.
func (d *Decoder) loadEscaped(data []byte) {
	d.escapes = true
	d.src = *bytes.NewBuffer(data)
	d.dec.Reset(&d.src)
}

// readBody reads an object or an array of objects.
func (d *Decoder) readBody(body []byte) {
	d.load(body)
	if d.dec.PeekKind() != '[' {
		d.batch.Single = true
		if d.readEvent() {
			d.expectEnd()
		}
		return
	}
	if _, err := d.dec.ReadToken(); err != nil {
		d.syntax(err)
		return
	}
	for d.dec.PeekKind() != ']' {
		if d.batch.N == MaxBatchEvents {
			d.tooMany()
			return
		}
		if !d.readEvent() {
			return
		}
	}
	if _, err := d.dec.ReadToken(); err != nil {
		d.syntax(err)
		return
	}
	d.expectEnd()
}

// readLines reads one object a line, and plain ones the quick way where quickly. A line that is not JSON doesn't hide the
// faults of later lines.
func (d *Decoder) readLines(body []byte, quickly bool) {
	element := 0
	for len(body) > 0 {
		line, rest, _ := bytes.Cut(body, []byte{'\n'})
		body = rest
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		if element == MaxBatchEvents {
			d.tooMany()
			return
		}
		if !quickly || !d.readPlainLine(line) {
			d.load(line)
			d.line = element
			if d.readEvent() {
				d.expectEnd()
			}
		}
		element++
	}
}

func (d *Decoder) tooMany() {
	d.faults.add(TooMany, "", CodeTooMany, fmt.Sprintf("a batch holds at most %d events: send several", MaxBatchEvents))
}

// expectEnd refuses data behind the value.
func (d *Decoder) expectEnd() {
	if _, err := d.dec.ReadToken(); !errors.Is(err, io.EOF) {
		detail := "there is data behind the JSON value"
		if d.line < 0 {
			detail += ": send several events as an array, or one a line as application/x-ndjson"
		}
		d.faults.add(Malformed, d.prefix(), CodeMalformed, detail)
	}
}

// readEvent reads one event and appends it to the batch. It returns false where the JSON ends for us.
func (d *Decoder) readEvent() bool {
	if kind := d.dec.PeekKind(); kind != '{' {
		return d.skip("an event is a JSON object")
	}
	if _, err := d.dec.ReadToken(); err != nil {
		return d.syntax(err)
	}
	d.id, d.user, d.typ, d.source, d.meta = d.id[:0], d.user[:0], d.typ[:0], d.source[:0], d.meta[:0]
	d.metaKeys, d.metaBytes, d.seen, d.bad = 0, 0, 0, 0
	before := d.faults.Total
	for d.dec.PeekKind() != '}' {
		if !d.readField() {
			return false
		}
	}
	if _, err := d.dec.ReadToken(); err != nil {
		return d.syntax(err)
	}
	d.finish()
	if d.faults.Total == before {
		d.append(&d.fields)
	}
	return true
}

// fieldSet is a set of the fields of an event.
type fieldSet uint8

const (
	hasID fieldSet = 1 << iota
	hasUser
	hasType
	hasSource
	hasCreated
	hasMetadata
)

func (d *Decoder) readField() bool {
	raw, err := d.dec.ReadValue()
	if err != nil {
		return d.syntax(err)
	}
	switch name := d.unquoted(raw); string(name) {
	case "id":
		return d.readString(hasID, &d.id, MaxIDBytes)
	case "user_id":
		return d.readString(hasUser, &d.user, MaxUserIDBytes)
	case "event_type":
		return d.readString(hasType, &d.typ, MaxTypeBytes)
	case "source":
		return d.readString(hasSource, &d.source, MaxSourceBytes)
	case "created_at":
		return d.readCreated()
	case "metadata":
		return d.readMetadata()
	default:
		d.fault(CodeUnknownField, unknownField(string(name)))
		return d.skipValue()
	}
}

var fieldNames = []string{"id", "user_id", "event_type", "metadata", "source", "created_at"}

func unknownField(name string) string {
	for _, known := range fieldNames {
		if strings.EqualFold(name, known) {
			return "unknown field: keys are case-sensitive, write " + known
		}
	}
	return "unknown field: an event has " + strings.Join(fieldNames, ", ") + "; put anything else into metadata"
}

// readString reads a string of at most limit bytes into dst.
func (d *Decoder) readString(field fieldSet, dst *[]byte, limit int) bool {
	d.seen |= field
	raw, err := d.dec.ReadValue()
	if err != nil {
		return d.syntax(err)
	}
	if raw.Kind() != '"' {
		d.bad |= field
		d.fault(CodeWrongType, "the value must be a string")
		return true
	}
	s := d.unquoted(raw)
	if len(s) > limit {
		d.bad |= field
		d.fault(CodeTooLong, fmt.Sprintf("the value has %d bytes, the limit is %d", len(s), limit))
		return true
	}
	*dst = append(*dst, s...)
	return true
}

// unquoted returns the text of a valid JSON string.
func (d *Decoder) unquoted(raw []byte) []byte {
	inner := raw[1 : len(raw)-1]
	if !d.escapes || bytes.IndexByte(inner, '\\') < 0 {
		return inner
	}
	s, err := jsontext.AppendUnquote(nil, raw)
	if err != nil {
		panic("event: jsontext refuses to unquote a string that it has read: " + err.Error())
	}
	return s
}

func (d *Decoder) readCreated() bool {
	raw, err := d.dec.ReadValue()
	if err != nil {
		return d.syntax(err)
	}
	if raw.Kind() != '"' {
		d.fault(CodeWrongType, "created_at must be a string in RFC 3339, as 2006-01-02T15:04:05Z")
		return true
	}
	if d.origin.Bound {
		d.fault(CodeNotAllowed, "a token with the role user must leave created_at to the server")
		return true
	}
	t, ok := ParseTime(d.unquoted(raw))
	switch {
	case !ok:
		d.fault(CodeBadTime, "created_at must be in RFC 3339, as 2006-01-02T15:04:05Z")
	case t.After(d.latest):
		d.fault(CodeTooFarAhead, fmt.Sprintf("created_at lies more than %s ahead of the server's clock (%s)",
			MaxFuture, d.origin.AcceptedAt.UTC().Format(time.RFC3339)))
	case DayOf(t) < d.origin.Oldest:
		d.fault(CodeExpired, fmt.Sprintf("created_at lies before the retention window, which begins on %s",
			d.origin.Oldest))
	default:
		d.created = t.UnixNano()
		d.seen |= hasCreated
	}
	return true
}

func (d *Decoder) readMetadata() bool {
	if d.dec.PeekKind() != '{' {
		return d.skip("metadata must be an object of strings")
	}
	if _, err := d.dec.ReadToken(); err != nil {
		return d.syntax(err)
	}
	for d.dec.PeekKind() != '}' {
		if !d.readPair() {
			return false
		}
	}
	if _, err := d.dec.ReadToken(); err != nil {
		return d.syntax(err)
	}
	if d.metaKeys > MaxMetadataKeys {
		d.fault(CodeTooMany, fmt.Sprintf("metadata has %d keys, the limit is %d", d.metaKeys, MaxMetadataKeys))
	}
	if d.metaBytes > MaxMetadataBytes {
		d.fault(CodeTooLong, fmt.Sprintf("metadata has %d bytes, the limit is %d", d.metaBytes, MaxMetadataBytes))
	}
	return true
}

func (d *Decoder) readPair() bool {
	raw, err := d.dec.ReadValue()
	if err != nil {
		return d.syntax(err)
	}
	key := d.unquoted(raw)
	d.metaKeys++
	d.metaBytes += len(key)
	if len(key) > MaxMetadataKeyBytes {
		d.fault(CodeTooLong, fmt.Sprintf("the key has %d bytes, the limit is %d", len(key), MaxMetadataKeyBytes))
		return d.skipValue()
	}
	d.meta = appendBytes(d.meta, key)
	if raw, err = d.dec.ReadValue(); err != nil {
		return d.syntax(err)
	}
	if raw.Kind() != '"' {
		d.fault(CodeWrongType, "metadata values must be strings")
		return true
	}
	value := d.unquoted(raw)
	d.metaBytes += len(value)
	if len(value) > MaxMetadataValueBytes {
		d.fault(CodeTooLong, fmt.Sprintf("the value has %d bytes, the limit is %d", len(value), MaxMetadataValueBytes))
		return true
	}
	d.meta = appendBytes(d.meta, value)
	return true
}

// finish checks what can be checked only when the whole event has been read.
func (d *Decoder) finish() {
	at := func(kind FaultKind, field, code, detail string) {
		d.faults.add(kind, d.pointer()+"/"+field, code, detail)
	}
	d.slot = d.slotOf(d.typ)
	switch {
	case d.bad&hasType != 0: // one fault for one value
	case d.slot >= 0: // an event of this type was valid before
	case d.seen&hasType == 0:
		at(Invalid, "event_type", CodeRequired, "event_type is required")
	case len(d.typ) == 0:
		at(Invalid, "event_type", CodeEmpty, "event_type must not be empty")
	case bytes.HasPrefix(d.typ, []byte("__")):
		at(Invalid, "event_type", CodeBadType, `event_type must not begin with "__"`)
	case bytes.ContainsFunc(d.typ, unicode.IsControl):
		at(Invalid, "event_type", CodeBadType, "event_type must not contain control characters")
	}
	if d.bad&hasID == 0 && d.empty(hasID, d.id) {
		at(Invalid, "id", CodeEmpty, "id must not be empty: leave it out and the server makes one")
	}
	if d.bad&hasUser == 0 && d.empty(hasUser, d.user) {
		at(Invalid, "user_id", CodeEmpty, "user_id must not be empty: leave it out to count as the token's own name")
	}
	if d.origin.Bound && len(d.user) > 0 && string(d.user) != d.origin.User {
		at(Forbidden, "user_id", CodeNotAllowed, "a token with the role user posts only as itself: leave user_id out")
	}
}

// empty says whether a field was sent and is empty.
func (f *fields) empty(field fieldSet, value []byte) bool {
	return f.seen&field != 0 && len(value) == 0
}

// slotOf returns the slot of a type, -1 where an event of it is to come.
func (d *Decoder) slotOf(typ []byte) int {
	if slot, known := d.slots[string(typ)]; known {
		return slot
	}
	return -1
}

// append encodes an event behind the batch. d.slot is that of its type.
func (d *Decoder) append(f *fields) {
	var flags byte
	if f.seen&hasID != 0 {
		flags |= flagID | flagTypedID
		d.batch.IDs++
	}
	if d.origin.Bound {
		flags |= flagBound
	}
	if len(f.source) > 0 {
		flags |= flagSource
	}
	if f.seen&hasCreated != 0 {
		flags |= flagCreated
	}
	e := append(d.entry[:0], flags)
	e = binary.AppendUvarint(e, d.accepted)
	if flags&flagCreated != 0 {
		e = binary.AppendVarint(e, f.created)
	}
	e = appendString(e, d.origin.Token)
	e = appendBytes(e, f.typ)
	if f.seen&hasUser != 0 {
		e = appendBytes(e, f.user)
	} else {
		e = appendString(e, d.origin.User)
	}
	if flags&flagID != 0 {
		e = appendBytes(e, f.id)
	}
	if flags&flagSource != 0 {
		e = appendBytes(e, f.source)
	}
	e = binary.AppendUvarint(e, uint64(f.metaKeys))
	e = append(e, f.meta...)
	d.entry = e
	d.batch.Entries = appendBytes(d.batch.Entries, e)
	d.batch.N++
	d.count(f.typ)
}

// count counts the event under its type.
func (d *Decoder) count(typ []byte) {
	i := d.slot
	if i < 0 {
		i = len(d.counts)
		name := string(typ)
		d.slots[name] = i
		d.counts = append(d.counts, TypeCount{Type: name})
	}
	if d.counts[i].N == 0 {
		d.touched = append(d.touched, i)
	}
	d.counts[i].N++
}

// pointer returns the JSON pointer of what was read last.
func (d *Decoder) pointer() string { return d.prefix() + string(d.dec.StackPointer()) }

// prefix returns the JSON pointer of the value at the bottom of the decoder's stack.
func (d *Decoder) prefix() string {
	if d.line < 0 {
		return ""
	}
	return "/" + strconv.Itoa(d.line)
}

// fault adds a fault of what was read last.
func (d *Decoder) fault(code, detail string) {
	d.faults.add(Invalid, d.pointer(), code, detail)
}

// skip passes over a value of the wrong type.
func (d *Decoder) skip(detail string) bool {
	if err := d.dec.SkipValue(); err != nil {
		return d.syntax(err)
	}
	d.fault(CodeWrongType, detail)
	return true
}

func (d *Decoder) skipValue() bool {
	if err := d.dec.SkipValue(); err != nil {
		return d.syntax(err)
	}
	return true
}

// syntax adds what jsontext says of the JSON. It returns false: nothing behind it can be read.
func (d *Decoder) syntax(err error) bool {
	code, detail := CodeMalformed, "the body ends in the middle of the JSON value"
	pointer := d.prefix()
	var syn *jsontext.SyntacticError
	if errors.As(err, &syn) {
		pointer += string(syn.JSONPointer)
		detail = fmt.Sprintf("not valid JSON at byte %d: %v", syn.ByteOffset, syn.Err)
		if errors.Is(syn.Err, jsontext.ErrDuplicateName) {
			code, detail = CodeDuplicateKey, "the key stands twice in the object"
		}
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		detail = "the body ends in the middle of the JSON value"
		if d.dec.InputOffset() == 0 && d.line < 0 {
			detail = "the body is empty: send an event, an array of events, or one event a line as application/x-ndjson"
		}
	}
	d.faults.add(Malformed, pointer, code, detail)
	return false
}
