package main

import (
	"bufio"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mattn/go-runewidth"

	"usaged/aggregator/durable"
	"usaged/aggregator/event"
)

// saveInterval is the least time between two writes of the cursor file, each of which is synced.
const saveInterval = time.Second

// tailOutput writes events, and then how far they were written.
type tailOutput struct {
	w       *bufio.Writer
	session *session
	cursors *cursorFile
	style   style
	names   bool // say which replica each event is of
	events  int
}

func (o *tailOutput) write(r *replica, it *tailItem) error {
	if it.notice != "" {
		fmt.Fprintf(o.session.stderr, "usagectl: %s\n", printable(it.notice))
		return nil
	}
	if it.Missing > r.missing {
		fmt.Fprintf(o.session.stderr, "usagectl: %s: %s damaged there, and left out\n", r.url, plural(it.Missing-r.missing, "event"))
		r.missing = it.Missing
	}
	var err error
	switch {
	case !it.IsEvent():
	case o.session.json():
		o.events++
		_, err = o.w.Write(append(event.VisibleJSON(it.Line), '\n'))
	default:
		o.events++
		_, err = o.w.WriteString(o.style.line(r, it, o.names))
	}
	o.cursors.set(r.key, it.Cursor)
	return err
}

// idle passes everything on before the output has to wait. It returns when it wants to be called again.
func (o *tailOutput) idle() (time.Time, error) {
	if err := o.w.Flush(); err != nil {
		return time.Time{}, err
	}
	return o.cursors.save(false, o.sync)
}

// sync makes the output durable where it is a file, so that no power cut leaves a cursor behind events that are lost.
func (o *tailOutput) sync() error {
	f, ok := o.session.stdout.(*os.File)
	if !ok {
		return nil
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return err
	}
	return f.Sync()
}

// finish passes on what is left.
func (o *tailOutput) finish() error {
	err := o.w.Flush()
	if err != nil {
		return err // what was not written is not behind us
	}
	_, err = o.cursors.save(true, o.sync)
	return err
}

// cursorFile is how far the events of each replica were written. A nil one remembers nothing.
type cursorFile struct {
	path  string
	dirty bool
	saved time.Time

	// Cursors are by URL, or by data directory where the daemon was found there.
	Cursors map[string]string `json:"cursors"`
}

var cursorFormat = durable.Format{Version: 2, Plain: 1}

func openCursors(path string) (*cursorFile, error) {
	if path == "" {
		return nil, nil
	}
	c := &cursorFile{path: path, Cursors: map[string]string{}}
	plain, err := cursorFormat.LoadJSON(path, c)
	if errors.Is(err, fs.ErrNotExist) {
		c.dirty = true // so that a path that cannot be written is found out now
		_, err := c.save(true, func() error { return nil })
		return c, err
	}
	if err != nil {
		return nil, fmt.Errorf("read the cursor file: %w: name another, or delete it to begin anew", err)
	}
	if c.Cursors == nil {
		return nil, fmt.Errorf("read the cursor file: %s holds no cursors: name another file, or delete it to begin anew", path)
	}
	c.dirty = plain
	return c, nil
}

func (c *cursorFile) get(key string) string {
	if c == nil {
		return ""
	}
	return c.Cursors[key]
}

func (c *cursorFile) set(key, cursor string) {
	if c != nil && cursor != "" && c.Cursors[key] != cursor {
		c.Cursors[key], c.dirty = cursor, true
	}
}

// save makes the file durable behind what sync does, at once or where the last time is long enough ago. Otherwise it returns
// when to call it again.
func (c *cursorFile) save(now bool, sync func() error) (again time.Time, err error) {
	if c == nil || !c.dirty {
		return time.Time{}, nil
	}
	if due := c.saved.Add(saveInterval); !now && time.Now().Before(due) {
		return due, nil
	}
	if err := sync(); err != nil {
		return time.Time{}, fmt.Errorf("sync the output: %w", err)
	}
	if err := cursorFormat.SaveJSON(c.path, c, 0o600); err != nil {
		return time.Time{}, fmt.Errorf("write the cursor file: %w", err)
	}
	c.dirty, c.saved = false, time.Now()
	return time.Time{}, nil
}

// style is how events look to people.
type style struct{ color bool }

func (c *tailCommand) style(s *session) style {
	return style{color: c.color == "always" || c.color == "auto" && s.colours()}
}

// SGR codes.
const (
	faint = "2"
	bold  = "1"
)

// paint sets text between escape sequences.
func (s style) paint(code, text string) string {
	if !s.color || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// line is an event for people. What could move the cursor of a terminal is replaced.
func (s style) line(r *replica, it *tailItem, names bool) string {
	const typeWidth, userWidth = 20, 16
	var b strings.Builder
	b.WriteString(s.paint(faint, it.AcceptedAt.UTC().Format("2006-01-02T15:04:05.000Z")))
	if names {
		b.WriteString("  " + s.paint(faint, strings.TrimPrefix(strings.TrimPrefix(r.url, "http://"), "https://")))
	}
	b.WriteString("  " + s.paint(typeColor(it.Type), runewidth.FillRight(printable(it.Type), typeWidth)))
	b.WriteString("  " + s.paint(bold, runewidth.FillRight(printable(it.UserID), userWidth)))
	for _, key := range slices.Sorted(maps.Keys(it.Metadata)) {
		b.WriteString("  " + s.paint(faint, printable(key)+"=") + shown(it.Metadata[key]))
	}
	if it.Source != "" {
		b.WriteString("  " + s.paint(faint, "from ") + printable(it.Source))
	}
	return strings.TrimRight(b.String(), " ") + "\n"
}

// typeColor gives a type one of six colours, always the same.
func typeColor(eventType string) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(eventType)) // it cannot fail
	return strconv.Itoa(31 + int(h.Sum32()%6))
}

// shown is a metadata value, quoted where it has blanks and cut where it is long.
func shown(value string) string {
	const maxWidth = 60
	value = runewidth.Truncate(printable(value), maxWidth, "…")
	if value == "" || strings.ContainsAny(value, " \"") {
		return strconv.Quote(value)
	}
	return value
}
