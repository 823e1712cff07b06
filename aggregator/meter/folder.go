package meter

import (
	"unicode/utf8"

	"usaged/aggregator/event"
)

// Folder folds events of one partition into a delta. It is not safe for concurrent use.
type Folder struct {
	meters []Meter
	keys   map[string]int // metadata keys that some meter reads → index into values
	// lengths says which lengths the keys have.
	lengths [event.MaxMetadataKeyBytes + 1]bool
	oldest  event.Day

	days  map[event.Day]*dayFold
	last  *dayFold // of the event before: nearly always the next one's too
	dups  map[string]uint64
	stats Stats

	values [][]byte // of the event being folded, by index in keys; nil where absent
}

// Stats counts what a fold met besides the sums.
type Stats struct {
	// Events and Duplicates are the events folded, by whether they were counted.
	Events, Duplicates uint64
	// BadValues counts metadata values that should have been integers from 0 to 2^53; each added 0.
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
	expired bool
}

type meterFold struct {
	user, ref Cells
	order     []string // the keys of ref
}

// NewFolder returns a folder for meters.
func NewFolder(meters []Meter) *Folder {
	f := &Folder{meters: meters, keys: map[string]int{}}
	use := func(key string) {
		if _, ok := f.keys[key]; !ok && key != "" {
			f.keys[key] = len(f.keys)
			if len(key) <= event.MaxMetadataKeyBytes {
				f.lengths[len(key)] = true
			}
		}
	}
	for _, m := range meters {
		use(m.Reference)
		use(m.Value)
		for _, key := range m.Sum {
			use(key)
		}
	}
	f.values = make([][]byte, len(f.keys))
	f.Reset(0)
	return f
}

// Reset forgets all that was folded and sets the oldest day of the retention window.
func (f *Folder) Reset(oldest event.Day) {
	f.oldest = oldest
	f.days = map[event.Day]*dayFold{}
	f.last = nil
	f.dups, f.stats = map[string]uint64{}, Stats{}
}

// Duplicate notes an event that is not counted.
func (f *Folder) Duplicate(v *event.View) {
	f.dups[string(v.Type)]++
	f.stats.Duplicates++
}

// Add folds an event. user is the event's user, as a string that the folder may keep.
func (f *Folder) Add(v *event.View, user string) {
	f.stats.Events++
	day := v.Day()
	d := f.last
	if d == nil || d.day != day {
		d = f.day(day)
	}
	t := d.lastT
	if t == nil || t.name != string(v.Type) {
		t = f.typeOf(d, v.Type)
	}
	t.n++
	if t.expired {
		f.stats.Expired++
		return
	}
	t.users[user]++
	if len(t.meters) > 0 && v.Pairs() > 0 {
		f.addMeters(d, t, v, user)
	}
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
		t = &typeFold{name: string(name), users: Cells{}, expired: d.day < f.oldest}
		for i := range f.meters {
			m := &f.meters[i]
			if m.reads(t.name) && (m.Reference != "" || !m.counts()) {
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

func (f *Folder) addMeters(d *dayFold, t *typeFold, v *event.View, user string) {
	clear(f.values)
	found := false
	for key, value := range v.Metadata() {
		if f.lengths[len(key)] { // most keys are not even as long as one that is read
			if i, ok := f.keys[string(key)]; ok {
				f.values[i], found = value, true
			}
		}
	}
	if !found {
		return
	}
	for _, i := range t.meters {
		m, sums := &f.meters[i], &d.meters[i]
		n, ok := f.value(m)
		if !ok {
			continue
		}
		if !m.counts() {
			sums.user = add(sums.user, user, n)
		}
		if ref := f.lookup(m.Reference); len(ref) > 0 {
			sums.addReference(cut(ref), n)
		}
	}
}

// value returns what the event adds to a meter, or false where the meter doesn't read it.
func (f *Folder) value(m *Meter) (uint64, bool) {
	if m.counts() {
		return 1, true
	}
	if v := f.lookup(m.Value); v != nil {
		return f.number(v), true
	}
	var sum uint64
	found := false
	for _, key := range m.Sum {
		if v := f.lookup(key); v != nil {
			sum, found = sum+f.number(v), true
		}
	}
	return min(sum, MaxTotal), found
}

// lookup returns the event's value of a metadata key, nil where it has none.
func (f *Folder) lookup(key string) []byte {
	if key == "" {
		return nil
	}
	return f.values[f.keys[key]]
}

// number reads an integer from 0 to 2^53. Anything else is 0, and counted.
func (f *Folder) number(v []byte) uint64 {
	n := uint64(0)
	for _, c := range v {
		if c < '0' || c > '9' || n > MaxTotal {
			n = MaxTotal + 1
			break
		}
		n = n*10 + uint64(c-'0')
	}
	if len(v) == 0 || n > MaxTotal {
		f.stats.BadValues++
		return 0
	}
	return n
}

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

// Cells returns the number of cells folded since Reset.
func (f *Folder) Cells() int {
	n := 0
	for _, d := range f.days {
		for _, t := range d.types {
			n += len(t.users)
		}
		for _, m := range d.meters {
			n += len(m.user) + len(m.ref)
		}
	}
	return n
}

// Stats returns what the fold met since Reset.
func (f *Folder) Stats() Stats { return f.stats }

// Delta returns what was folded. It shares its maps with the folder: it is valid until the next Add or Reset.
func (f *Folder) Delta() Delta {
	delta := Delta{Days: map[event.Day]*DayDelta{}, Totals: Totals{}}
	for day, d := range f.days {
		out := &DayDelta{Types: map[string]uint64{}, Rollups: map[Rollup]Cells{}, TypeOrder: d.order, KeyOrder: map[Rollup][]string{}}
		for _, t := range d.types {
			delta.Totals[Series{Family: FamilyEvents, A: t.name}] += t.n
			if t.expired {
				continue
			}
			out.Types[t.name] = t.n
			out.Rollups[TypeRollup(t.name)] = t.users
		}
		for i, sums := range d.meters {
			if sums.user != nil {
				out.Rollups[MeterRollup(f.meters[i].Name, ByUser)] = sums.user
			}
			if sums.ref != nil {
				r := MeterRollup(f.meters[i].Name, ByReference)
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
	return delta
}
