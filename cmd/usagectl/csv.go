package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// csvRecords reads CSV with a line of column names, or with names from the command line. Each row becomes an object of
// strings. Of two columns with one name the first counts.
type csvRecords struct {
	rows    *csvReader
	columns []string
	n       int
	text    []byte
}

func newCSVRecords(r io.Reader, comma byte, columns []string) (*csvRecords, error) {
	c := &csvRecords{rows: newCSVReader(r, comma)}
	if len(columns) > 0 {
		c.columns = columns
		return c, nil
	}
	header, _, err := c.rows.read()
	if errors.Is(err, io.EOF) {
		return c, nil
	}
	if err != nil {
		return nil, fmt.Errorf("the line of column names: %w", err)
	}
	c.rows.trim = c.rows.padded
	for i, name := range header {
		name = strings.TrimSpace(name)
		if !utf8.ValidString(name) {
			return nil, fmt.Errorf("the name of column %d is not UTF-8", i+1)
		}
		if name == "" {
			name = fmt.Sprintf("column_%d", i+1)
		}
		c.columns = append(c.columns, name)
	}
	return c, nil
}

func (c *csvRecords) next() (record, error) {
	row, line, err := c.rows.read()
	if errors.Is(err, io.EOF) {
		return record{}, io.EOF
	}
	if errors.Is(err, errInput) {
		return record{}, fmt.Errorf("line %d: %w", line, err)
	}
	c.n++
	rec := record{n: c.n, line: line, err: err}
	if err == nil {
		rec.content = c.content(row)
		rec.value, rec.err = c.object(row)
	}
	if rec.err != nil {
		rec.text = cut([]byte(strings.Join(row, string(c.rows.comma))))
	}
	return rec, nil
}

// content is what a row says, in which the names of its columns count too.
func (c *csvRecords) content(row []string) []byte {
	c.text = c.text[:0]
	for i, field := range row {
		if i < len(c.columns) {
			c.text = strconv.AppendQuote(c.text, c.columns[i])
		}
		c.text = strconv.AppendQuote(append(c.text, ':'), field)
	}
	return c.text
}

func (c *csvRecords) object(row []string) (any, error) {
	if len(row) != len(c.columns) {
		return nil, fmt.Errorf("the row has %d fields and the file %d columns", len(row), len(c.columns))
	}
	object := make(map[string]any, len(row))
	for i, name := range c.columns {
		if _, seen := object[name]; seen {
			continue
		}
		if !utf8.ValidString(row[i]) {
			return nil, fmt.Errorf("column %s is not UTF-8", name)
		}
		object[name] = row[i]
	}
	return object, nil
}

var errOpenQuote = errors.New("a quoted field has no end: all that follows belongs to it")

// csvReader reads RFC 4180 as encoding/csv does, except that a quote in the wrong place does not make a row
// unreadable, which real files are full of: text behind a closing quote still belongs to the field, and a quote inside
// a field without quotes stands for itself; a quote behind blanks begins a field all the same. Where names of columns have blanks before
// them, so have the rows, and they are no part of the fields. Spreadsheets and Python read it so too. A row that this takes apart wrongly
// has the wrong number of fields, and its caller refuses it.
type csvReader struct {
	in    *boundedReader
	r     *bufio.Reader
	comma byte
	line  int // of the next byte

	row   []string
	field []byte
	any   bool // the row has a byte other than its end

	ends   lineEnds
	padded bool // a field began with a blank
	trim   bool // blanks around fields are none of theirs
	quotes int  // length of the field when its last quote was closed, -1 where it has no quotes
}

// lineEnds is what ends the lines of a file, which the first of them tells. Where it is a carriage return alone, every one ends a
// line; otherwise one alone is text.
type lineEnds int

const (
	unknownEnds lineEnds = iota
	newlines
	carriageReturns
)

func newCSVReader(r io.Reader, comma byte) *csvReader {
	in := newBoundedReader(r)
	return &csvReader{in: in, r: bufio.NewReaderSize(in, sourceBufferSize), comma: comma, line: 1}
}

// read returns a row, valid until the next call, and the line on which it begins. Empty lines are skipped.
func (c *csvReader) read() (row []string, line int, err error) {
	for {
		line, c.row, c.any = c.line, c.row[:0], false
		c.in.refill()
		end, err := c.readRow()
		if err != nil && !errors.Is(err, io.EOF) {
			return c.row, line, err
		}
		if c.any {
			return c.row, line, nil
		}
		if end {
			return nil, line, io.EOF
		}
	}
}

// readRow reads up to a line end outside quotes. end says that the file ended too.
func (c *csvReader) readRow() (end bool, err error) {
	c.beginField()
	quoted, fresh := false, true // inside quotes; nothing of the field but blanks
	for {
		b, err := c.readByte()
		switch {
		case errors.Is(err, io.EOF) && quoted:
			return true, errOpenQuote
		case errors.Is(err, io.EOF):
			c.endField()
			return true, err
		case err != nil:
			return false, err
		case !quoted && c.endsLine(b):
			c.endField()
			return false, nil
		}
		c.any = true
		switch {
		case b == c.comma && !quoted:
			c.endField()
			fresh = true
			continue
		case b == '"' && quoted && c.peek() == '"':
			c.field = append(c.field, '"')
			if _, err := c.r.Discard(1); err != nil {
				return false, err
			}
		case b == '"' && fresh: // blanks before it are no part of the field
			c.field, c.quotes, quoted = c.field[:0], 0, true
		case b == '"' && quoted:
			c.quotes, quoted = len(c.field), false
		default:
			c.field = append(c.field, b)
			if fresh && (b == ' ' || b == '\t') {
				c.padded = true
				continue
			}
		}
		fresh = false
	}
}

// endsLine says whether a byte outside quotes ends the line.
func (c *csvReader) endsLine(b byte) bool {
	switch {
	case b == '\n' && c.ends == unknownEnds:
		c.ends = newlines
	case b == '\r' && c.ends == unknownEnds:
		c.ends = carriageReturns
	}
	if b == '\r' && c.ends == carriageReturns {
		c.line++
		return true
	}
	return b == '\n'
}

func (c *csvReader) beginField() { c.field, c.quotes = c.field[:0], -1 }

func (c *csvReader) endField() {
	field := c.field
	switch {
	case c.quotes >= 0 && len(bytes.TrimSpace(field[c.quotes:])) == 0: // blanks behind the last quote
		field = field[:c.quotes]
	case c.trim && c.quotes < 0:
		field = bytes.TrimSpace(field)
	}
	c.row = append(c.row, string(field))
	c.beginField()
}

// readByte reads a line end of two characters, and a carriage return at the end of the file, as one.
func (c *csvReader) readByte() (byte, error) {
	b, err := c.r.ReadByte()
	if b == '\r' && err == nil && c.ends != carriageReturns {
		next, peekErr := c.r.Peek(1)
		if errors.Is(peekErr, io.EOF) || peekErr == nil && next[0] == '\n' {
			b, err = c.r.ReadByte()
		}
	}
	if b == '\n' && err == nil {
		c.line++
	}
	return b, err
}

// peek is the next byte, or 0.
func (c *csvReader) peek() byte {
	next, err := c.r.Peek(1)
	if err != nil {
		return 0
	}
	return next[0]
}
