package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

// salvage finds where a value that cannot be read ends, so that it costs only itself: at the bracket that closes it, or at a line
// end behind which another object begins that is indented no further. It takes no notice of what is inside but of brackets and strings.
type salvage struct {
	r       *bufio.Reader
	indent  int  // of the line on which the value begins
	array   bool // it is an element of an array, so that a comma or a bracket ends it too
	text    []byte
	skipped int64 // bytes read
	objects int   // opening braces met

	depth    int
	inString bool
	escaped  bool
}

// ends are how a salvage can end.
type ends int

const (
	endOfValue ends = iota
	endOfLine       // what was passed over may be more than one record
	endOfFile
)

// run reads up to the end of the value.
func (s *salvage) run() (ends, error) {
	for {
		b, err := s.r.ReadByte()
		if errors.Is(err, io.EOF) {
			return endOfFile, nil
		}
		if err != nil {
			return endOfFile, err
		}
		if b == ']' && s.array && s.depth == 0 && !s.inString {
			return endOfValue, s.r.UnreadByte()
		}
		s.skipped++
		if len(s.text) < textCut {
			s.text = append(s.text, b)
		}
		switch {
		case b == '\n':
			s.inString, s.escaped = false, false
			if s.objectFollows() {
				return endOfLine, nil
			}
		case s.escaped:
			s.escaped = false
		case s.inString:
			s.escaped, s.inString = b == '\\', b != '"'
		default:
			if s.structure(b) {
				return endOfValue, nil
			}
		}
	}
}

// structure takes note of a byte outside strings and says whether the value ends behind it.
func (s *salvage) structure(b byte) bool {
	switch b {
	case '"':
		s.inString = true
	case '{', '[':
		s.depth++
		if b == '{' {
			s.objects++
		}
	case '}', ']':
		s.depth--
		return s.depth <= 0 && (s.array || s.objects > 0)
	case ',':
		return s.array && s.depth == 0 && len(bytes.TrimSpace(s.text)) > 1
	}
	return false
}

// objectFollows says whether the next line begins with an object, indented no further than the value.
func (s *salvage) objectFollows() bool {
	for indent := 0; indent <= s.indent; indent++ {
		head, err := s.r.Peek(indent + 1)
		if err != nil {
			return false
		}
		switch head[indent] {
		case '{':
			return true
		case ' ', '\t':
		default:
			return false
		}
	}
	return false
}

// skipComma passes over blanks and a comma behind an element of an array.
func (s *salvage) skipComma() error {
	for {
		b, err := s.r.ReadByte()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch b {
		case ' ', '\t', '\r', '\n':
			s.skipped++
		case ',':
			s.skipped++
			return nil
		default:
			return s.r.UnreadByte()
		}
	}
}

// pushback is a reader to which bytes can be given back.
type pushback struct {
	pending []byte
	r       io.Reader
}

func (p *pushback) Read(buf []byte) (int, error) {
	if len(p.pending) > 0 {
		n := copy(buf, p.pending)
		p.pending = p.pending[n:]
		return n, nil
	}
	return p.r.Read(buf)
}
