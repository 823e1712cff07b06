package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// maxRecordBytes bounds one record of an input file, and with it the memory that reading takes.
const maxRecordBytes = 64 << 20

// record is one element of an input file.
type record struct {
	n    int // from 1
	line int // on which it begins, from 1
	// value is the record as jq sees it: nil, bool, json.Number, string, []any or map[string]any.
	value any
	// text is the beginning of a record that cannot be read, err says why.
	text string
	err  error
}

// records reads an input file. next returns io.EOF behind the last record; any other error means that the rest of the
// file cannot be read. A record that cannot be read by itself has its own err.
type records interface {
	next() (record, error)
}

// textCut is how much of an unreadable record is shown.
const textCut = 2 << 10

func cut(text []byte) string {
	return strings.ToValidUTF8(string(bytes.TrimSpace(text[:min(len(text), textCut)])), "\uFFFD")
}

// lineRecords reads NDJSON: a line that is no JSON costs only itself.
type lineRecords struct {
	r     *bufio.Reader
	limit int // bytes of a line
	dec   *valueDecoder
	n     int
	line  int
	buf   []byte
}

func newLineRecords(r io.Reader) *lineRecords {
	return &lineRecords{r: bufio.NewReaderSize(r, sourceBufferSize), limit: maxRecordBytes, dec: newValueDecoder()}
}

func (l *lineRecords) next() (record, error) {
	for {
		line, whole, err := l.readLine()
		if err != nil {
			return record{}, err
		}
		l.line++
		if len(bytes.TrimSpace(line)) == 0 && whole {
			continue
		}
		l.n++
		rec := record{n: l.n, line: l.line}
		if whole {
			rec.value, rec.err = l.dec.decode(line)
		} else {
			rec.err = fmt.Errorf("the line is longer than %d bytes", l.limit)
		}
		if rec.err != nil {
			rec.text = cut(line)
		}
		return rec, nil
	}
}

// readLine reads a line without its end, valid until the next call. Of a line beyond the limit it keeps the beginning.
func (l *lineRecords) readLine() (line []byte, whole bool, err error) {
	l.buf = l.buf[:0]
	whole = true
	for {
		part, err := l.r.ReadSlice('\n')
		if len(l.buf)+len(part) > l.limit {
			whole = false
			part = nil
		}
		l.buf = append(l.buf, part...)
		switch {
		case err == nil:
			return l.buf, whole, nil
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF) && (len(l.buf) > 0 || !whole):
			return l.buf, whole, nil
		}
		return nil, false, err
	}
}

// jsonRecords reads JSON values that follow each other, or the elements of an array. Behind a syntax error it goes on
// at the next line that begins with an object, which is the next record of a file that holds one a line.
type jsonRecords struct {
	in      *boundedReader
	lines   *lineCounter
	src     io.Reader // what dec reads: lines, or what was given back and then lines
	dec     *jsontext.Decoder
	values  *valueDecoder
	base    int64 // offset in the file at which dec began
	n       int
	started bool
	array   bool
	ended   bool
}

// What is wrong inside a value is found when the value is read, and must not hide where it ends.
var (
	splitting = jsontext.AllowDuplicateNames(true)
	anyUTF8   = jsontext.AllowInvalidUTF8(true)
)

func newJSONRecords(r io.Reader) *jsonRecords {
	j := &jsonRecords{in: newBoundedReader(r), values: newValueDecoder()}
	j.lines = &lineCounter{r: j.in, line: 1}
	j.src = j.lines
	j.dec = jsontext.NewDecoder(j.src, splitting, anyUTF8)
	return j
}

func (j *jsonRecords) next() (record, error) {
	j.in.refill()
	if !j.started {
		j.started = true
		if j.dec.PeekKind() == '[' {
			j.array = true
			if _, err := j.dec.ReadToken(); err != nil {
				return record{}, err
			}
		}
	}
	if j.ended {
		return record{}, io.EOF
	}
	if j.array && j.dec.PeekKind() == ']' {
		return j.endArray()
	}
	value, err := j.dec.ReadValue()
	if errors.Is(err, io.EOF) && !j.array {
		return record{}, io.EOF
	}
	j.n++
	if err != nil {
		return j.broken(err)
	}
	start := j.base + j.dec.InputOffset() - int64(len(value))
	rec := record{n: j.n, line: j.lines.lineAt(start)}
	if rec.value, rec.err = j.values.decode(value); rec.err != nil {
		rec.text = cut(value)
	}
	return rec, nil
}

// endArray reads the closing bracket and makes sure that nothing follows.
func (j *jsonRecords) endArray() (record, error) {
	if _, err := j.dec.ReadToken(); err != nil {
		return record{}, err
	}
	j.ended = true
	if _, err := j.dec.ReadToken(); !errors.Is(err, io.EOF) {
		return record{}, errors.New("there is more behind the end of the array")
	}
	return record{}, io.EOF
}

// broken turns a syntax error into a record, or into the end where there is no telling where the next record begins.
func (j *jsonRecords) broken(err error) (record, error) {
	unread := j.dec.UnreadBuffer()
	start := j.base + j.dec.InputOffset()
	blank := len(unread) - len(bytes.TrimLeft(unread, " \t\r\n,"))
	unread, start = unread[blank:], start+int64(blank)
	rec := record{n: j.n, line: j.lines.lineAt(start), text: cut(unread), err: plainSyntax(err)}
	if errors.Is(err, errInput) {
		return record{}, fmt.Errorf("line %d: %w", rec.line, err)
	}
	if j.array {
		j.ended = true
		return rec, nil
	}
	pending, skipped := j.skipToObject(bytes.Clone(unread))
	if pending == nil {
		j.ended = true
		return rec, nil
	}
	j.base = start + skipped
	j.src = io.MultiReader(bytes.NewReader(pending), j.src)
	j.dec.Reset(j.src, splitting, anyUTF8)
	return rec, nil
}

// skipToObject looks for the next line that begins with an object, first in what the decoder had read. It returns
// what was read of that line and behind it, and how many bytes lie before it; nil where there is none.
func (j *jsonRecords) skipToObject(window []byte) (pending []byte, skipped int64) {
	buf := make([]byte, 64<<10)
	for {
		if at := bytes.Index(window, []byte("\n{")); at >= 0 {
			return window[at+1:], skipped + int64(at) + 1
		}
		drop := max(0, len(window)-1) // the last byte may be the line end that is looked for
		skipped += int64(drop)
		window = window[drop:]
		j.in.refill()
		n, err := j.src.Read(buf)
		window = append(window, buf[:n]...)
		if err != nil && n == 0 {
			return nil, 0
		}
	}
}

// plainSyntax drops the decoder's prefix and offset: the record's line is named beside it.
func plainSyntax(err error) error {
	var syntax *jsontext.SyntacticError
	if errors.As(err, &syntax) && syntax.Err != nil {
		return fmt.Errorf("not JSON: %w", syntax.Err)
	}
	return fmt.Errorf("not JSON: %w", err)
}

// errInput is in the chain of errors in reading the file, as against errors in what it says.
var errInput = errors.New("the rest of the file cannot be read")

// boundedReader fails when more is read for one record than a record may have.
type boundedReader struct {
	r      io.Reader
	limit  int
	budget int
}

func newBoundedReader(r io.Reader) *boundedReader {
	return &boundedReader{r: r, limit: maxRecordBytes, budget: maxRecordBytes}
}

// refill is called before each record.
func (b *boundedReader) refill() { b.budget = b.limit }

func (b *boundedReader) Read(p []byte) (int, error) {
	if b.budget <= 0 {
		return 0, fmt.Errorf("%w: a record is larger than %d bytes", errInput, b.limit)
	}
	n, err := b.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w: %w", errInput, err)
	}
	b.budget -= n
	return n, err
}

// lineCounter knows on which line each byte lies that was read through it.
type lineCounter struct {
	r        io.Reader
	offset   int64   // bytes read
	newlines []int64 // offsets of line ends that lineAt has not passed
	line     int     // the line behind the last line end that lineAt has passed
}

func (l *lineCounter) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	for i, c := range p[:n] {
		if c == '\n' {
			l.newlines = append(l.newlines, l.offset+int64(i))
		}
	}
	l.offset += int64(n)
	return n, err
}

// lineAt is the line of an offset. Offsets must not fall from one call to the next.
func (l *lineCounter) lineAt(offset int64) int {
	passed := 0
	for passed < len(l.newlines) && l.newlines[passed] < offset {
		passed++
	}
	l.line += passed
	l.newlines = l.newlines[passed:]
	return l.line
}
