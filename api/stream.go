package api

import (
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"usaged/aggregator/event"

	"usaged/aggregator/rollup"
)

// chunkBytes is how much of an answer is encoded before it is written.
const chunkBytes = 32 << 10

// minBytesPerSecond is the pace at which a client must read a long answer, once answerTimeout is over. A slower one is
// cut off: the rows of its answer are in memory until it has read them.
const minBytesPerSecond = 64 << 10

// stream encodes an answer chunk by chunk. After an error it does nothing.
type stream struct {
	w       http.ResponseWriter
	buf     []byte
	start   time.Time
	written int
	err     error
}

// A quoted key may be six times as long as the key (\u0001…), hence the room behind the chunk.
var chunks = sync.Pool{New: func() any {
	b := make([]byte, 0, chunkBytes+4<<10)
	return &b
}}

// streamJSON writes a JSON answer. The error is errCut where the client didn't take all of it.
func streamJSON(w http.ResponseWriter, encode func(s *stream)) error {
	w.Header()["Content-Type"] = jsonType
	return streamTo(w, func(s *stream) {
		encode(s)
		s.raw("\n")
	})
}

// write streams an answer, whose headers are set.
func (f *format) write(w http.ResponseWriter, a answer) error {
	return streamTo(w, func(s *stream) { f.encode(s, a) })
}

func streamTo(w http.ResponseWriter, encode func(s *stream)) error {
	chunk := chunks.Get().(*[]byte)
	s := stream{w: w, buf: (*chunk)[:0], start: time.Now()}
	encode(&s)
	s.flush()
	*chunk = s.buf
	chunks.Put(chunk)
	if s.err != nil {
		return errCut
	}
	return nil
}

func (s *stream) flush() {
	if s.err != nil {
		s.buf = s.buf[:0]
		return
	}
	allowance := answerTimeout + time.Duration(s.written)*time.Second/minBytesPerSecond
	setWriteDeadline(s.w, s.start.Add(allowance))
	_, s.err = s.w.Write(s.buf)
	s.written += len(s.buf)
	s.buf = s.buf[:0]
}

// raw appends JSON text. Every key and number passes here or through text and number, which keep the chunk small.
func (s *stream) raw(text string) { s.buf = append(s.buf, text...) }

// bytes appends a piece of text of any length.
func (s *stream) bytes(b []byte) {
	if len(s.buf) >= chunkBytes {
		s.flush()
	}
	s.buf = append(s.buf, b...)
}

func (s *stream) text(v string) {
	if len(s.buf) >= chunkBytes {
		s.flush()
	}
	s.buf = appendString(s.buf, v)
}

func (s *stream) number(n uint64) { s.buf = strconv.AppendUint(s.buf, n, 10) }

// key begins member i of an object.
func (s *stream) key(i int, name string) {
	if i > 0 {
		s.buf = append(s.buf, ',')
	}
	s.text(name)
	s.buf = append(s.buf, ':')
}

// totals encodes {key: total} in the order given.
func (s *stream) totals(list []rollup.Total) {
	s.raw("{")
	for i := range list {
		s.key(i, list[i].Key)
		s.number(list[i].N)
		if s.err != nil {
			return
		}
	}
	s.raw("}")
}

// appendString appends a JSON string. Strings of events are valid UTF-8; in any other string U+FFFD stands for what is
// not.
func appendString(b []byte, v string) []byte {
	for i := range len(v) {
		if c := v[i]; c >= 0x7f { // jsontext escapes what lies below and must be
			quoted, _ := jsontext.AppendQuote(nil, v)
			return append(b, event.VisibleJSON(quoted)...)
		}
	}
	b, _ = jsontext.AppendQuote(b, v)
	return b
}
