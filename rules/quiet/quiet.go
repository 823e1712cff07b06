// Package quiet knows the planned quiet times: stretches in which fewer events are no cause for concern, such as holidays and
// maintenance. They come from a calendar file, which has weekly ones too, and from [Times.Add], which keeps them in the data
// directory.
//
// A quiet time is of some event types or of all. It is exported as usaged_quiet{event_type}, which is 1 while it lasts, and the
// rules leave its time out of what they judge and of what later weeks are compared with. So it takes effect from when it is
// known on, and never on what lies back.
//
// What [Times.Add] and [Times.End] have returned without an error survives a crash. Everything is safe for concurrent use.
//
//	times, err := quiet.Open(quiet.Config{Path: "data/quiet.json", Calendar: "quiet.yml"})
//	registry.Register(times)
//	entry, err := times.Add(quiet.Entry{Until: monday, Reason: "the office moves"})
package quiet

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"usaged/aggregator/aside"
	"usaged/aggregator/durable"
	"usaged/aggregator/event"
)

// Limits, so that neither the series nor the answers grow without one.
const (
	// MaxEntries bounds the quiet times of the calendar, and those beside it.
	MaxEntries = 100
	// MaxTypes bounds the event types of one.
	MaxTypes = 20
	// MaxReasonBytes bounds a reason.
	MaxReasonBytes = 200
	// MaxAhead is how far ahead one may end.
	MaxAhead = 370 * 24 * time.Hour
	// skew is how much the clock of whoever asks may be behind.
	skew = time.Minute
)

// all is the label of a quiet time of all event types.
const all = "__all__"

var (
	// ErrUnknown says that there is no quiet time with the id.
	ErrUnknown = errors.New("there is no such quiet time")
	// ErrFull says that there are MaxEntries.
	ErrFull = fmt.Errorf("there are %d quiet times already: end some, or write them into the calendar", MaxEntries)
)

// Entry is a quiet time, of a weekly one the occurrence that lasts or comes next.
type Entry struct {
	// ID names one that was added; it is empty in the calendar.
	ID string
	// Line is where it stands in the calendar; 0 where it was added.
	Line int
	// Weekly says that it comes again every week.
	Weekly      bool
	From, Until time.Time
	// Types are the event types, sorted; none means all.
	Types  []string
	Reason string
}

// lasts says whether it is quiet at a time.
func (e *Entry) lasts(at time.Time) bool { return !at.Before(e.From) && at.Before(e.Until) }

// Config says where quiet times are.
type Config struct {
	// Path is the file of those that were added. Required; made with the first.
	Path string
	// Calendar is the calendar file; empty: there is none.
	Calendar string
	// Now is the clock, time.Now where nil.
	Now func() time.Time
	// Damaged is where the file at Path goes if it cannot be used. Nil: Open returns the error.
	Damaged *aside.Shelf
}

// Times are all quiet times. They are a prometheus.Collector.
type Times struct {
	cfg  Config
	desc *prometheus.Desc

	mu       sync.Mutex
	calendar []planned
	added    saved
}

// saved is the file of what was added.
type saved struct {
	LastID  uint64  `json:"last_id"`
	Entries []added `json:"entries"`
}

type added struct {
	ID     string    `json:"id"`
	From   time.Time `json:"from"`
	Until  time.Time `json:"until"`
	Types  []string  `json:"event_types,omitempty"`
	Reason string    `json:"reason,omitempty"`
}

var savedFormat = durable.Format{Version: 2, Plain: 1}

// Open reads both files.
func Open(cfg Config) (*Times, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	t := &Times{cfg: cfg, desc: prometheus.NewDesc("usaged_quiet",
		"1 while a planned quiet time lasts for a type of events, __all__ for every type; 0 where one is planned.", []string{"event_type"}, nil)}
	var err error
	if t.calendar, err = load(cfg.Calendar); err != nil {
		return nil, err
	}
	return t, t.loadAdded()
}

// loadAdded reads what was added. A file that cannot be used is set aside, since a planned quiet time only keeps alerts silent, and
// events must be taken without it.
func (t *Times) loadAdded() error {
	plain, err := savedFormat.LoadJSON(t.cfg.Path, &t.added)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		err = fmt.Errorf("read quiet times: %w: restore it from a backup, or delete it and plan them again", err)
		t.added = saved{}
		if t.cfg.Damaged == nil {
			return err
		}
		return t.cfg.Damaged.Move(aside.QuietTimes, err, t.cfg.Path)
	case plain:
		return t.save(t.added)
	}
	return nil
}

// Check says what is wrong with a calendar file. None is fine.
func Check(calendar string) error {
	_, err := load(calendar)
	return err
}

// Reload reads the calendar again. On an error what was in force stays.
func (t *Times) Reload() error {
	calendar, err := load(t.cfg.Calendar)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.calendar = calendar
	return nil
}

// List returns what lasts or is to come, in the order of beginnings.
func (t *Times) List() []Entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.list(t.cfg.Now())
}

func (t *Times) list(now time.Time) (list []Entry) {
	for _, p := range t.calendar {
		if e := p.at(now); now.Before(e.Until) {
			list = append(list, e)
		}
	}
	for _, a := range t.added.Entries {
		if now.Before(a.Until) {
			list = append(list, Entry{ID: a.ID, From: a.From, Until: a.Until, Types: a.Types, Reason: a.Reason})
		}
	}
	slices.SortStableFunc(list, func(a, b Entry) int { return a.From.Compare(b.From) })
	return list
}

// Fault is what is wrong with a field of an entry: from, until, event_types/0 or reason.
type Fault struct{ Field, Reason string }

// Faults is an error that has all of them.
type Faults []Fault

func (f Faults) Error() string {
	texts := make([]string, len(f))
	for i, fault := range f {
		texts[i] = fault.Field + ": " + fault.Reason
	}
	return strings.Join(texts, "; ")
}

// Add plans a quiet time and returns it with its id. It begins now where From is zero. The error is Faults, ErrFull
// (errors.Is), or about the disk; then nothing was planned.
func (t *Times) Add(e Entry) (Entry, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.cfg.Now()
	if e.From.IsZero() {
		e.From = now
	}
	e.Types = slices.Compact(slices.Sorted(slices.Values(e.Types)))
	if faults := check(&e, now); len(faults) > 0 {
		return Entry{}, faults
	}
	next := t.without("")
	if len(next.Entries) >= MaxEntries {
		return Entry{}, ErrFull
	}
	next.LastID++
	e.ID, e.Line, e.Weekly = strconv.FormatUint(next.LastID, 10), 0, false
	e.From, e.Until = e.From.UTC().Truncate(time.Second), e.Until.UTC().Truncate(time.Second)
	next.Entries = append(next.Entries, added{e.ID, e.From, e.Until, e.Types, e.Reason})
	return e, t.save(next)
}

// End ends a quiet time that was added, also one that is to come. The error is ErrUnknown (errors.Is), or about the disk.
func (t *Times) End(id string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := t.without(id)
	if !slices.ContainsFunc(t.list(t.cfg.Now()), func(e Entry) bool { return e.ID == id && id != "" }) {
		return ErrUnknown
	}
	return t.save(next)
}

// without returns what is to be saved, less one entry and those that are over.
func (t *Times) without(id string) saved {
	now, next := t.cfg.Now(), t.added
	next.Entries = slices.DeleteFunc(slices.Clone(next.Entries), func(a added) bool { return a.ID == id || !now.Before(a.Until) })
	return next
}

// save makes it durable, then puts it in force.
func (t *Times) save(next saved) error {
	if err := savedFormat.SaveJSON(t.cfg.Path, next, 0o644); err != nil {
		return fmt.Errorf("write quiet times: %w", err)
	}
	t.added = next
	return nil
}

// check says what is wrong with an entry that is to be added.
func check(e *Entry, now time.Time) (faults Faults) {
	fault := func(field, format string, args ...any) {
		faults = append(faults, Fault{field, fmt.Sprintf(format, args...)})
	}
	if e.From.Before(now.Add(-skew)) {
		fault("from", "a quiet time cannot begin in the past, which has been judged; leave it out to begin now")
	}
	switch {
	case e.Until.IsZero():
		fault("until", "the end is missing")
	case !e.Until.After(now) || !e.Until.After(e.From):
		fault("until", "the end must lie ahead, and behind the beginning")
	case e.Until.After(now.Add(MaxAhead)):
		fault("until", "the end lies more than %d days ahead", int(MaxAhead.Hours()/24))
	}
	return append(append(faults, checkTypes(e.Types)...), checkReason(e.Reason)...)
}

func checkTypes(types []string) (faults Faults) {
	if len(types) > MaxTypes {
		faults = append(faults, Fault{"event_types", fmt.Sprintf("there are %d, at most %d are possible; none means all", len(types), MaxTypes)})
	}
	for i, name := range types {
		if name == "" || len(name) > event.MaxTypeBytes || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) ||
			strings.HasPrefix(name, "__") && name != event.Other {
			faults = append(faults, Fault{fmt.Sprintf("event_types/%d", i), fmt.Sprintf("%q is no event type; leave event_types out for all of them", name)})
		}
	}
	return faults
}

func checkReason(reason string) Faults {
	if len(reason) > MaxReasonBytes || !utf8.ValidString(reason) || strings.ContainsFunc(reason, unicode.IsControl) {
		return Faults{{"reason", fmt.Sprintf("it must be one line of at most %d bytes of UTF-8", MaxReasonBytes)}}
	}
	return nil
}

// Describe implements prometheus.Collector.
func (t *Times) Describe(out chan<- *prometheus.Desc) { out <- t.desc }

// Collect implements prometheus.Collector.
func (t *Times) Collect(out chan<- prometheus.Metric) {
	now := t.cfg.Now()
	t.mu.Lock()
	entries := t.list(now)
	t.mu.Unlock()
	quiet := map[string]float64{all: 0}
	for i := range entries {
		e, value := &entries[i], 0.0
		if e.lasts(now) {
			value = 1
		}
		if len(e.Types) == 0 {
			quiet[all] = max(quiet[all], value)
		}
		for _, name := range e.Types {
			quiet[name] = max(quiet[name], value)
		}
	}
	for name, value := range quiet {
		out <- prometheus.MustNewConstMetric(t.desc, prometheus.GaugeValue, value, name)
	}
}
