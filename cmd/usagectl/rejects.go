package main

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"usaged/aggregator/event"
	"usaged/client"
)

// shownRejects is how many rejected records are shown besides being listed in the file.
const shownRejects = 5

// rejectLine is one record or event that was left out.
type rejectLine struct {
	origin
	rejection
	others []client.Fault // further faults of the same event
	event  []byte         // the event that the daemon refused
	input  string         // the record that made no event
}

// rejectedByDaemon is an event with the faults that the daemon named.
func rejectedByDaemon(it item, faults []client.Fault) rejectLine {
	first := faults[0]
	return rejectLine{
		origin:    it.origin,
		rejection: rejection{pointer: first.Pointer, code: first.Code, reason: first.Detail},
		others:    faults[1:],
		event:     it.line,
	}
}

// rejectFile lists what was left out. The file is made with its first line. Safe for concurrent use.
type rejectFile struct {
	path string

	mu       sync.Mutex
	f        *os.File
	w        *bufio.Writer
	n        int
	byReason map[string]int
	shown    []string
}

func newRejectFile(path string) *rejectFile {
	return &rejectFile{path: path, byReason: map[string]int{}}
}

// add writes a line.
func (r *rejectFile) add(line rejectLine) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.f == nil {
		f, err := os.Create(r.path)
		if err != nil {
			return fmt.Errorf("list what is left out (name another file with --rejects): %w", err)
		}
		r.f, r.w = f, bufio.NewWriter(f)
	}
	r.n++
	r.byReason[line.code]++
	if len(r.shown) < shownRejects {
		r.shown = append(r.shown, line.String())
	}
	data, err := json.Marshal(line.record())
	if err == nil {
		_, err = r.w.Write(append(event.VisibleJSON(data), '\n'))
	}
	if err != nil {
		return fmt.Errorf("list what is left out in %s: %w", r.path, err)
	}
	return nil
}

// rejectRecord is the form of a line in the file.
type rejectRecord struct {
	File    string         `json:"file"`
	Record  int            `json:"record"`
	Line    int            `json:"line"`
	Code    string         `json:"code"`
	Pointer string         `json:"pointer"`
	Reason  string         `json:"reason"`
	Others  []client.Fault `json:"others,omitempty"`
	Event   jsontext.Value `json:"event,omitempty"`
	Input   string         `json:"input,omitempty"`
}

func (l rejectLine) record() rejectRecord {
	return rejectRecord{
		File:    strings.ToValidUTF8(l.file, "\uFFFD"),
		Record:  l.n,
		Line:    l.line,
		Code:    l.code,
		Pointer: l.pointer,
		Reason:  strings.ToValidUTF8(l.reason, "\uFFFD"),
		Others:  l.others,
		Event:   l.event,
		Input:   l.input,
	}
}

func (l rejectLine) String() string {
	where := ""
	if l.pointer != "" {
		where = l.pointer + ": "
	}
	return printable(fmt.Sprintf("%s, line %d (record %d): %s%s", l.file, l.line, l.n, where, l.reason))
}

func (r *rejectFile) counts() (n int, byReason map[string]int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.n, maps.Clone(r.byReason)
}

// written is the path of the file where there is one.
func (r *rejectFile) written() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.f == nil {
		return ""
	}
	return r.path
}

// describe tells people what was left out.
func (r *rejectFile) describe(w io.Writer) {
	n, byReason := r.counts()
	for _, text := range r.shown {
		fmt.Fprintf(w, "  %s\n", text)
	}
	if n > len(r.shown) {
		fmt.Fprintf(w, "  … and %s more\n", thousands(uint64(n-len(r.shown))))
	}
	var reasons []string
	for _, code := range sortedReasons(byReason) {
		reasons = append(reasons, fmt.Sprintf("%s %s", thousands(uint64(byReason[code])), code))
	}
	fmt.Fprintf(w, "usagectl: %s refused (%s); all are listed in %s\n", thousands(uint64(n)), strings.Join(reasons, ", "), r.path)
	if byReason[event.CodeExpired] > 0 {
		fmt.Fprintln(w, "usagectl: what is older than the daemon's --retention.days is expired: raise it, or move old data with --shift-to-now")
	}
}

// sortedReasons orders codes by how often they came, ties by name.
func sortedReasons(m map[string]int) []string {
	return slices.SortedFunc(maps.Keys(m), func(a, b string) int {
		return cmp.Or(cmp.Compare(m[b], m[a]), cmp.Compare(a, b))
	})
}

func (r *rejectFile) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.f == nil {
		return nil
	}
	if err := errors.Join(r.w.Flush(), r.f.Close()); err != nil {
		return fmt.Errorf("list what is left out in %s: %w", r.path, err)
	}
	return nil
}
