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
	// content is what the file says of the record. It is valid until the next one is read.
	content []byte
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
		rec := record{n: l.n, line: l.line, content: line}
		if whole {
			rec.value, rec.err = l.dec.decode(bytes.TrimLeft(line, string(rune(recordSeparator))))
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

// jsonRecords reads JSON values that follow each other, also as a text sequence (RFC 7464), or the elements of an array. A value that
// cannot be read costs only itself, see salvage.
type jsonRecords struct {
	in      *boundedReader
	lines   *lineCounter
	src     *pushback // what dec reads: lines, or what was given back and then lines
	dec     *jsontext.Decoder
	values  *valueDecoder
	base    int64 // offset in the file at which dec began
	n       int
	started bool
	array   bool
	ended   bool
	// doubtful is the line of the first record of which the end could not be told, 0 for none.
	doubtful int
}

// What is wrong inside a value is found when the value is read, and must not hide where it ends.
var (
	splitting = jsontext.AllowDuplicateNames(true)
	anyUTF8   = jsontext.AllowInvalidUTF8(true)
)

func newJSONRecords(r io.Reader) *jsonRecords {
	j := &jsonRecords{in: newBoundedReader(r), values: newValueDecoder()}
	j.lines = &lineCounter{r: j.in, line: 1}
	j.src = &pushback{r: j.lines}
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
		return record{}, j.atEnd()
	}
	if j.array && j.dec.PeekKind() == ']' {
		return j.endArray()
	}
	value, err := j.dec.ReadValue()
	if errors.Is(err, io.EOF) && !j.array {
		j.ended = true
		return record{}, j.atEnd()
	}
	j.n++
	if err != nil {
		return j.broken(err)
	}
	start := j.base + j.dec.InputOffset() - int64(len(value))
	rec := record{n: j.n, line: j.lines.lineAt(start), content: value}
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
	return record{}, j.atEnd()
}

// broken turns a syntax error into a record, and goes on behind it.
func (j *jsonRecords) broken(err error) (record, error) {
	window := bytes.Clone(j.dec.UnreadBuffer())
	start := j.base + j.dec.InputOffset()
	blank := len(window) - len(bytes.TrimLeft(window, " \t\r\n,"))
	window, start = window[blank:], start+int64(blank)
	rec := record{n: j.n, line: j.lines.lineAt(start), err: plainSyntax(err)}
	if errors.Is(err, errInput) {
		return record{}, fmt.Errorf("line %d: %w", rec.line, err)
	}
	unread := bytes.NewReader(window)
	s := &salvage{r: bufio.NewReader(io.MultiReader(unread, j.refilled(j.src))), indent: j.lines.indentAt(start), array: j.array}
	end, err := s.run()
	if err == nil && j.array && end != endOfFile {
		err = s.skipComma()
	}
	if err != nil {
		return record{}, fmt.Errorf("line %d: %w", rec.line, err)
	}
	rec.text = cut(s.text)
	if end != endOfValue && s.objects > 1 && j.doubtful == 0 {
		j.doubtful = rec.line
	}
	if end == endOfFile {
		j.ended = true
		return rec, nil
	}
	rest, _ := s.r.Peek(s.r.Buffered()) // no more than there is
	rest = append(bytes.Clone(rest), window[len(window)-unread.Len():]...)
	j.goOn(append(rest, j.src.pending...), start+s.skipped)
	return rec, nil
}

// goOn lets the decoder begin anew with bytes that were read already and lie at an offset of the file.
func (j *jsonRecords) goOn(pending []byte, offset int64) {
	j.base = offset
	j.src.pending = pending
	if !j.array {
		j.dec.Reset(j.src, splitting, anyUTF8)
		return
	}
	j.src.pending = append([]byte("["), pending...) // the decoder is to read the elements that follow as those of an array
	j.base--
	j.dec.Reset(j.src, splitting, anyUTF8)
	_, _ = j.dec.ReadToken() // the bracket
}

// refilled reads as much as there is: what is passed over is not kept.
func (j *jsonRecords) refilled(r io.Reader) io.Reader {
	return readerFunc(func(p []byte) (int, error) {
		j.in.refill()
		return r.Read(p)
	})
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// atEnd returns io.EOF, or an error where records may have been passed over that were not listed.
func (j *jsonRecords) atEnd() error {
	if j.doubtful == 0 {
		return io.EOF
	}
	return fmt.Errorf("line %d: the record that begins here cannot be read and has no end that could be told, so records behind it may be left out: "+
		"mend it and import the file again", j.doubtful)
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
	begin    int64   // the offset at which that line begins
}

func (l *lineCounter) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	for i, c := range p[:n] {
		switch c {
		case '\n':
			l.newlines = append(l.newlines, l.offset+int64(i))
		case recordSeparator:
			p[i] = ' '
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
	if passed > 0 {
		l.begin = l.newlines[passed-1] + 1
	}
	l.line += passed
	l.newlines = l.newlines[passed:]
	return l.line
}

// indentAt is how far from the beginning of its line an offset lies, whose line is known.
func (l *lineCounter) indentAt(offset int64) int { return int(min(offset-l.begin, maxIndent)) }

// maxIndent bounds how far an object may be indented that begins a record.
const maxIndent = 256

// recordSeparator begins each value of a text sequence (RFC 7464). It is read as a blank.
const recordSeparator = 0x1e
