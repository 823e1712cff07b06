package meter

import (
	"math"
	"slices"
	"unicode/utf8"

	"usaged/aggregator/event"
)

// Folder folds events of one partition into a delta. It is not safe for concurrent use.
type Folder struct {
	meters []plan
	keys   []string                             // metadata keys that something reads
	byLen  [event.MaxMetadataKeyBytes + 1][]int // indices of keys, by their length
	oldest event.Day
	// skipped are days to which nothing is added, see Skip.
	skipped []event.Day

	days  map[event.Day]*dayFold
	last  *dayFold // of the event before: nearly always the next one's too
	dups  map[string]uint64
	stats Stats
	cells int // see Cells

	values []value // of the event being folded, by index in keys
	// tooMuch says that the values of the event being folded are good one by one, but not together. See total.
	tooMuch bool
	// mostTokens is the limit of the built-in meter of tokens.
	mostTokens uint64

	reserved []string // see DayDelta.Reserved

	lifetime lifetime
}

// plan is a meter with the indices of the keys that it reads, −1 for none.
type plan struct {
	*Meter
	key              string // see Meter.Key
	reference, value int
	sum              []int
}

// value is the value of a metadata key.
type value struct {
	text   []byte // nil where the event has none
	number uint64
	parsed bool // number is known
	wrong  bool // it was counted as a bad value
}

// reading is what was found where a number should be.
type reading int

const (
	absent reading = iota
	bad            // no number, or one beyond the limit: it adds 0
	good
)

// Stats counts what a fold met besides the sums.
type Stats struct {
	// Events and Duplicates are the events folded, by whether they were counted.
	Events, Duplicates uint64
	// BadValues counts metadata values that should have been whole numbers from 0 to a meter's limit; each added 0.
	BadValues uint64
	// Expired counts events whose day had left the retention window; they add to lifetime totals only.
	Expired uint64
}

// dayFold is a DayDelta in the making.
type dayFold struct {
	day    event.Day
	types  map[string]*typeFold
	order  []string // the names of types that are counted under this day
	lastT  *typeFold
	meters []meterFold // by index of the meter
}

type typeFold struct {
	name    string
	n       uint64
	users   Cells
	meters  []int // indices of the meters that need more than the type's own cells
	expired bool  // adds to lifetime totals alone

	// Lifetime totals, see lifetime.go.
	label                    string // the type, or event.Other
	late, success, failure   uint64
	lateSuccess, lateFailure uint64 // of success and failure
	metrics                  []*metricFold
}

type meterFold struct {
	user, ref Cells
	order     []string // the keys of ref
}

// NewFolder returns a folder for meters. labels are those of the lifetime totals; nil will do where these are not asked
// for.
func NewFolder(meters []Meter, labels *Labels) *Folder {
	f := &Folder{keys: slices.Clone(knownKeys), mostTokens: MaxValue}
	for i := range meters {
		m := &meters[i]
		p := plan{Meter: m, key: m.Key(), reference: f.use(m.Reference), value: f.use(m.Value)}
		for _, key := range m.Sum {
			p.sum = append(p.sum, f.use(key))
		}
		f.meters = append(f.meters, p)
		if m.tokens() {
			f.mostTokens = m.most()
		}
	}
	f.reserved = ReservedTypes(meters)
	f.lifetime = newLifetime(f, labels)
	for i, key := range f.keys {
		if len(key) <= event.MaxMetadataKeyBytes {
			f.byLen[len(key)] = append(f.byLen[len(key)], i)
		}
	}
	f.values = make([]value, len(f.keys))
	f.Reset(0)
	return f
}

// ReservedTypes are the event types for which there is always room: those that have a meaning of their own, and those that meters
// name.
func ReservedTypes(meters []Meter) []string {
	types := slices.Clone(event.KnownTypes)
	for i := range meters {
		types = append(types, meters[i].Events...)
	}
	slices.Sort(types)
	return slices.Compact(types)
}

// use returns the index of a key that is read, −1 for none.
func (f *Folder) use(key string) int {
	if key == "" {
		return -1
	}
	if i := slices.Index(f.keys, key); i >= 0 {
		return i
	}
	f.keys = append(f.keys, key)
	return len(f.keys) - 1
}

// Reset forgets all that was folded and sets the oldest day of the retention window.
func (f *Folder) Reset(oldest event.Day) {
	f.oldest, f.skipped = oldest, nil
	f.days = map[event.Day]*dayFold{}
	f.last = nil
	f.dups, f.stats, f.cells = map[string]uint64{}, Stats{}, 0
	f.lifetime.reset()
}

// Skip has events of some days add to lifetime totals alone, until the next Reset: something else adds them to the days. It
// comes before the first event.
func (f *Folder) Skip(days []event.Day) { f.skipped = days }

// Duplicate notes an event that is not counted.
func (f *Folder) Duplicate(v *event.View) {
	f.dups[string(v.Counted)]++
	f.stats.Duplicates++
}

// Add folds an event. user is the event's user, as a string that the folder may keep.
func (f *Folder) Add(v *event.View, user string) {
	d, t := f.place(v)
	if t.n == 0 {
		f.lifetime.begin(t)
	}
	f.stats.Events++
	t.n++
	switch {
	case d.day < f.oldest:
		f.stats.Expired++
	case !t.expired:
		before := len(t.users)
		t.users[user]++
		f.cells += len(t.users) - before
	}
	f.lifetime.addEvent(t, v)
	if v.Pairs() == 0 && len(t.metrics) == 0 {
		return
	}
	if f.read(v) {
		f.lifetime.addMetadata(f, t)
		if !t.expired {
			f.addMeters(d, t, v, user)
		}
	}
	f.lifetime.addMetrics(f, t)
}

// AddMeters folds an event that has been counted before into the meters alone: it is no event by type and user. Between two
// Resets it is either this or Add.
func (f *Folder) AddMeters(v *event.View, user string) {
	d, t := f.place(v)
	if !t.expired && len(t.meters) > 0 && v.Pairs() > 0 && f.read(v) {
		f.addMeters(d, t, v, user)
	}
}

// place returns where an event is counted.
func (f *Folder) place(v *event.View) (*dayFold, *typeFold) {
	day := v.Day()
	d := f.last
	if d == nil || d.day != day {
		d = f.day(day)
	}
	t := d.lastT
	if t == nil || t.name != string(v.Counted) {
		t = f.typeOf(d, v.Counted)
	}
	return d, t
}

func (f *Folder) day(day event.Day) *dayFold {
	d := f.days[day]
	if d == nil {
		d = &dayFold{day: day, types: map[string]*typeFold{}, meters: make([]meterFold, len(f.meters))}
		f.days[day] = d
	}
	f.last = d
	return d
}

func (f *Folder) typeOf(d *dayFold, name []byte) *typeFold {
	t := d.types[string(name)]
	if t == nil {
		t = &typeFold{name: string(name), users: Cells{}, expired: d.day < f.oldest || slices.Contains(f.skipped, d.day)}
		for i := range f.meters {
			m := f.meters[i]
			if m.Reads(t.name) && m.Stored() {
				t.meters = append(t.meters, i)
			}
		}
		d.types[t.name] = t
		if !t.expired {
			d.order = append(d.order, t.name)
		}
	}
	d.lastT = t
	return t
}

// read finds the metadata values that something reads, and returns false where the event has none.
func (f *Folder) read(v *event.View) bool {
	clear(f.values)
	f.tooMuch = false
	found := false
	for key, text := range v.Metadata() {
		for _, i := range f.byLen[len(key)] { // most keys are not even as long as one that is read
			if f.keys[i] == string(key) {
				f.values[i].text, found = text, true
			}
		}
	}
	return found
}

func (f *Folder) addMeters(d *dayFold, t *typeFold, v *event.View, user string) {
	for _, i := range t.meters {
		m, sums := &f.meters[i], &d.meters[i]
		n, ok := f.value(m)
		if !ok {
			continue
		}
		before := len(sums.user) + len(sums.ref)
		if !m.counts() {
			sums.user = add(sums.user, user, n)
		}
		if ref := f.text(m.reference); len(ref) > 0 {
			if v.Excess&event.ExcessReferences != 0 {
				ref = other
			}
			sums.addReference(cut(ref), n)
		}
		f.cells += len(sums.user) + len(sums.ref) - before
	}
}

// value returns what the event adds to a meter, or false where the meter doesn't read it.
func (f *Folder) value(m *plan) (uint64, bool) {
	switch {
	case m.counts():
		return 1, true
	case m.tokens():
		kinds, found := f.tokens()
		return kinds[0] + kinds[1] + kinds[2], found
	}
	n, read := f.number(m.value, m.most())
	if read == good {
		return n, true
	}
	found := read == bad
	var sum uint64
	for _, key := range m.sum {
		n, read := f.number(key, m.most())
		sum, found = sum+n, found || read != absent
	}
	return f.total(sum, m.most()), found
}

// tokens returns the event's tokens by TokenKinds, and whether it says anything of tokens. The meter and the metric of tokens both
// count these, so that they agree. A total that is less than its parts adds nothing: the parts are what was paid for.
func (f *Folder) tokens() (kinds [len(TokenKinds)]uint64, found bool) {
	prompt, hasPrompt := f.number(keyPrompt, f.mostTokens)
	completion, hasCompletion := f.number(keyCompletion, f.mostTokens)
	total, hasTotal := f.number(keyTotal, f.mostTokens)
	parts := prompt + completion
	found = hasPrompt != absent || hasCompletion != absent || hasTotal != absent
	if f.total(max(total, parts), f.mostTokens) == 0 {
		return kinds, found
	}
	return [len(TokenKinds)]uint64{prompt, completion, max(total, parts) - parts}, found
}

// total returns a sum of values, or 0 where it is beyond the limit, which is counted once for the event.
func (f *Folder) total(sum, most uint64) uint64 {
	if sum <= most {
		return sum
	}
	if !f.tooMuch {
		f.tooMuch = true
		f.stats.BadValues++
	}
	return 0
}

// text returns the event's value of a key, nil where it has none.
func (f *Folder) text(key int) []byte {
	if key < 0 {
		return nil
	}
	return f.values[key].text
}

// number returns the event's value of a key, which is a whole number from 0 to most. Anything else is 0, and counted once.
func (f *Folder) number(key int, most uint64) (uint64, reading) {
	if key < 0 || f.values[key].text == nil {
		return 0, absent
	}
	v := &f.values[key]
	if !v.parsed {
		v.parsed = true
		var ok bool
		if v.number, ok = ParseWhole(v.text); !ok {
			v.number = math.MaxUint64
		}
	}
	if v.number <= most {
		return v.number, good
	}
	if !v.wrong {
		v.wrong = true
		f.stats.BadValues++
	}
	return 0, bad
}

var other = []byte(event.Other)

func add(c Cells, key string, n uint64) Cells {
	if c == nil {
		c = Cells{}
	}
	c[key] = min(c[key]+n, MaxTotal)
	return c
}

func (m *meterFold) addReference(ref []byte, n uint64) {
	key := string(ref)
	if _, known := m.ref[key]; !known {
		m.order = append(m.order, key)
	}
	m.ref = add(m.ref, key, n)
}

// cut shortens a reference to MaxReferenceBytes, at a rune's boundary.
func cut(ref []byte) []byte {
	if len(ref) <= MaxReferenceBytes {
		return ref
	}
	end := MaxReferenceBytes
	for end > 0 && !utf8.RuneStart(ref[end]) {
		end--
	}
	return ref[:end]
}

// CutReference is a value as it is counted: shortened to MaxReferenceBytes.
func CutReference(value []byte) string { return string(cut(value)) }

// Cells returns the number of cells folded since Reset. It is asked after every record of the journal, so it is kept up to date
// as cells appear: a walk over days and types would cost more than the folding where a record is a single late event.
func (f *Folder) Cells() int { return f.cells }

// Stats returns what the fold met since Reset.
func (f *Folder) Stats() Stats { return f.stats }

// Delta returns what was folded. It shares its maps with the folder: it is valid until the next Add or Reset.
func (f *Folder) Delta() Delta {
	delta := Delta{Days: map[event.Day]*DayDelta{}, Totals: Totals{}, Overflow: map[string]uint64{}}
	for day, d := range f.days {
		out := &DayDelta{Types: map[string]uint64{}, Rollups: map[Rollup]Cells{}, TypeOrder: d.order, KeyOrder: map[Rollup][]string{}, Reserved: f.reserved}
		for _, t := range d.types {
			if t.n == 0 { // see AddMeters
				continue
			}
			f.lifetime.addType(&delta, t)
			if t.expired {
				continue
			}
			out.Types[t.name] = t.n
			out.Rollups[TypeRollup(t.name)] = t.users
		}
		for i, sums := range d.meters {
			if sums.user != nil {
				out.Rollups[MeterRollup(f.meters[i].key, ByUser)] = sums.user
			}
			if sums.ref != nil {
				r := MeterRollup(f.meters[i].key, ByReference)
				out.Rollups[r], out.KeyOrder[r] = sums.ref, sums.order
			}
		}
		if len(out.Rollups) > 0 {
			delta.Days[day] = out
		}
	}
	for name, n := range f.dups {
		delta.Totals[Series{Family: FamilyDuplicates, A: name}] = n
	}
	f.lifetime.addTo(&delta, f.stats.Events)
	return delta
}
