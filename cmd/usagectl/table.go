package main

import (
	"bytes"
	"io"
	"os"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/mattn/go-runewidth"
	"golang.org/x/term"
)

// table prints aligned columns. Numbers stand at the right of their column, everything else at the left.
type table struct {
	rows  [][]string
	right []bool // by column; columns beyond it stand left
	width int    // of a line, which the last column is cut to; 0: none
}

// newTable makes a table with a line of headings. A heading that begins with ">" is a column of numbers.
func newTable(headings ...string) *table {
	t := &table{right: make([]bool, len(headings))}
	for i, h := range headings {
		headings[i], t.right[i] = strings.CutPrefix(h, ">")
	}
	t.add(headings...)
	return t
}

// add appends a row. What could move the terminal's cursor is shown as a replacement character: users choose some of
// these texts.
func (t *table) add(cells ...string) {
	for i, cell := range cells {
		cells[i] = printable(cell)
	}
	t.rows = append(t.rows, cells)
}

func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return utf8.RuneError
		}
		return r
	}, text)
}

// printableLines is printable for a text of several lines.
func printableLines(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		lines[i] = printable(line)
	}
	return strings.Join(lines, "\n")
}

func (t *table) write(w io.Writer) error {
	const gap = "  "
	var widths []int
	for _, row := range t.rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], runewidth.StringWidth(cell))
		}
	}
	if t.width > 0 {
		t.cut(widths, len(gap))
	}
	var out bytes.Buffer
	for _, row := range t.rows {
		var line strings.Builder
		for i, cell := range row {
			if i > 0 {
				line.WriteString(gap)
			}
			pad := strings.Repeat(" ", widths[i]-runewidth.StringWidth(cell))
			if i < len(t.right) && t.right[i] {
				line.WriteString(pad + cell)
			} else {
				line.WriteString(cell + pad)
			}
		}
		out.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	_, err := w.Write(out.Bytes())
	return err
}

// cut shortens the last column so that no line is wider than the terminal.
func (t *table) cut(widths []int, gap int) {
	const least = 8 // what remains readable, on however narrow a terminal
	last := len(widths) - 1
	room := t.width
	for _, w := range widths[:last] {
		room -= w + gap
	}
	widths[last] = min(widths[last], max(room, least))
	for _, row := range t.rows {
		if len(row) > last {
			row[last] = runewidth.Truncate(row[last], widths[last], "…")
		}
	}
}

// columns is how wide a line may be: what $COLUMNS says, else the terminal, else without a limit.
func (s *session) columns() int {
	if n, err := strconv.Atoi(s.getenv("COLUMNS")); err == nil && n > 0 {
		return n
	}
	f, ok := s.stdout.(*os.File)
	if !ok {
		return 0
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil { // no terminal
		return 0
	}
	return width
}

// thousands writes a number with commas.
func thousands(n uint64) string {
	digits := strconv.FormatUint(n, 10)
	var b strings.Builder
	for i, d := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(d)
	}
	return b.String()
}
