package api

import (
	"bytes"
	"encoding/csv"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"usaged/aggregator/event"
)

// format is how an answer is written.
type format struct {
	name      string
	mediaType string
	header    []string // the Content-Type
	encode    func(s *stream, a answer)
}

// formats lists them, the one first that is meant where a client doesn't care.
var formats = []*format{
	{"json", "application/json", jsonType, func(s *stream, a answer) {
		a.json(s)
		s.raw("\n")
	}},
	{"csv", "text/csv", []string{"text/csv; charset=utf-8; header=present"}, func(s *stream, a answer) {
		rows := &csvRows{s: s}
		rows.w = csv.NewWriter(&rows.row)
		a.csv(rows)
	}},
}

// negotiate chooses a format by the Accept header (RFC 9110, 12.5.1): the one with the highest quality, among equals the one
// that is named more exactly. A client that accepts none of them gets JSON rather than an error.
func negotiate(accept []string) *format {
	best, quality, exactness := formats[0], 0.0, -1
	ranges := parseAccept(strings.Join(accept, ","))
	for _, f := range formats {
		q, exact := qualityOf(ranges, f.mediaType)
		if q > 0 && (q > quality || q == quality && exact > exactness) {
			best, quality, exactness = f, q, exact
		}
	}
	return best
}

// mediaRange is one element of an Accept header.
type mediaRange struct {
	text    string
	quality float64
}

// parseAccept reads an Accept header. Elements that are none are ignored.
func parseAccept(header string) (list []mediaRange) {
	for part := range strings.SplitSeq(header, ",") {
		text, params, err := mime.ParseMediaType(part)
		if err != nil {
			continue
		}
		r := mediaRange{text, 1}
		if q, ok := params["q"]; ok {
			if r.quality, err = strconv.ParseFloat(q, 64); err != nil || r.quality < 0 || r.quality > 1 {
				continue
			}
		}
		list = append(list, r)
	}
	return list
}

// qualityOf returns how much a media type is wanted, by the range that names it most exactly, and how exact that is.
func qualityOf(ranges []mediaRange, mediaType string) (quality float64, exactness int) {
	kind, _, _ := strings.Cut(mediaType, "/")
	patterns := []string{"*/*", kind + "/*", mediaType}
	exactness = -1
	for _, r := range ranges {
		if i := slices.Index(patterns, r.text); i > exactness {
			quality, exactness = r.quality, i
		}
	}
	return quality, exactness
}

// describe sets the headers of an answer.
func (f *format) describe(h http.Header, ask question) {
	h["Content-Type"] = f.header
	if f.name == "csv" {
		// The parts of the name need no quotes: a meter's name is one word.
		h.Set("Content-Disposition", "attachment; filename=usage-"+ask.file+"-"+ask.window.From.String()+"-"+ask.window.To.String()+".csv")
	}
}

// csvRows writes CSV as of RFC 4180: a header, CRLF behind every line, and cells exactly as they are but for seen
// and defuse.
type csvRows struct {
	s   *stream
	row bytes.Buffer
	w   *csv.Writer // into row: its own CRLF would change line ends within cells
	all []string
}

// header writes the names of the columns.
func (c *csvRows) header(names ...string) { c.write(names) }

// add writes a line that ends with a number.
func (c *csvRows) add(n uint64, cells ...string) {
	c.all = append(append(c.all[:0], cells...), strconv.FormatUint(n, 10))
	c.write(c.all)
}

func (c *csvRows) write(cells []string) {
	if c.s.err != nil {
		return
	}
	for i := range cells {
		cells[i] = defuse(seen(cells[i]))
	}
	c.row.Reset()
	_ = c.w.Write(cells) // a buffer takes everything
	c.w.Flush()
	line := bytes.TrimSuffix(c.row.Bytes(), []byte("\n"))
	c.s.bytes(line)
	c.s.raw("\r\n")
}

// seen writes the hidden characters of a cell so that they are seen, but for tabs and line ends: a file may be printed on a terminal.
func seen(cell string) string {
	if !strings.ContainsFunc(cell, hiddenInCell) {
		return cell
	}
	var b strings.Builder
	for _, r := range cell {
		if hiddenInCell(r) {
			b.WriteString(event.Visible(string(r)))
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

func hiddenInCell(r rune) bool { return event.Hidden(r) && r != '\t' && r != '\r' && r != '\n' }

// defuse puts an apostrophe before a cell that a spreadsheet would take for a formula: one that begins with = + - @, a tab,
// a carriage return or a line feed (OWASP, CSV injection). So that no two cells look alike afterwards, one that begins with
// apostrophes and then such a character gets another.
func defuse(cell string) string {
	if rest := strings.TrimLeft(cell, "'"); rest != "" && strings.IndexByte("=+-@\t\r\n", rest[0]) >= 0 {
		return "'" + cell
	}
	return cell
}
