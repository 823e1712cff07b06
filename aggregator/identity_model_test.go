package aggregator

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"usaged/aggregator/event"
	"usaged/aggregator/ledger"
	"usaged/aggregator/meter"
	"usaged/aggregator/seqset"
	"usaged/aggregator/store"
	"usaged/aggregator/store/storetest"
)

// A model of data directories that count into one store. It has the decisions of the identity as they are, and in place of files,
// journals and the applier what they come to for one partition. All orders of what may happen, up to a number of steps, are gone
// through: in each, an event that some journal still has is counted once, and an event that none has at most once.

// modelFile is an identity file. at is where it lies, which no copy of files keeps.
type modelFile struct {
	id identity
	at string
}

// modelDir is a data directory and the process that runs on it.
type modelDir struct {
	journal   []int // the events by their numbers less one, 0 where the number was skipped
	own, kept *modelFile
	at        string // where new files lie

	id                          *identity
	connected, tookOver, fenced bool
}

type model struct {
	store, saved *storetest.Memory
	dirs         []*modelDir // the original, and its copy if there is one
	backup       *modelDir
	events       int // accepted so far; they are numbered from 1
	files        int
	doubtful     bool // the alarm that events may be counted twice
	blocks       bool // some copy was one of a disk's blocks
	// damaged are events that were lost with a journal: its directory has an alarm for them, and passes them over in the store,
	// also where a copy has them.
	damaged []int
}

func newModel() *model {
	m := &model{store: storetest.NewMemory(1)}
	m.dirs = []*modelDir{{at: m.newPlace()}}
	m.open(m.dirs[0])
	return m
}

func (m *model) newPlace() string {
	m.files++
	return fmt.Sprint("place ", m.files)
}

func (m *model) clone() *model {
	next := *m
	next.store, next.dirs = m.store.Clone(), nil
	for _, d := range m.dirs {
		next.dirs = append(next.dirs, d.clone())
	}
	return &next
}

func (d *modelDir) clone() *modelDir {
	next := *d
	next.journal = slices.Clone(d.journal)
	next.id = d.id.copied()
	return &next // files are replaced, never changed
}

func (id *identity) copied() *identity {
	next := *id
	next.Producers = slices.Clone(id.Producers)
	return &next
}

// copyOf returns a copy of a directory on which no process runs. One of its blocks cannot be told from the original.
func (m *model) copyOf(d *modelDir, blocks bool) *modelDir {
	next := &modelDir{journal: slices.Clone(d.journal), own: d.own, kept: d.kept, at: d.at}
	if blocks {
		return next
	}
	next.at = m.newPlace()
	own, kept := *d.own, *d.kept
	own.at, kept.at = next.at, next.at
	next.own, next.kept = &own, &kept
	return next
}

func (f *modelFile) read() *identity {
	if f == nil {
		return nil
	}
	id := f.id.copied()
	id.moved = id.Place != f.at
	return id
}

func (d *modelDir) save(id *identity) {
	id.Revision++
	id.Place = d.at
	d.kept = &modelFile{*id.copied(), d.at}
	d.own = &modelFile{*id.copied(), d.at}
	d.id = id
}

// open starts a process on a directory.
func (m *model) open(d *modelDir) {
	d.connected, d.tookOver, d.fenced = false, false, false
	id, intact := newerIdentity(d.own.read(), d.kept.read())
	if id == nil {
		id, intact = &identity{Producers: []producerSpan{{ID: "first", From: []uint64{0}}}}, true
	}
	var found findings
	if err := id.reopen(opening{end: uint64(len(d.journal)), partitions: 1}, intact, &found); err != nil {
		panic(err)
	}
	for uint64(len(d.journal)) < found.lost.Last {
		d.journal = append(d.journal, 0)
	}
	d.save(id)
}

func (m *model) accept(d *modelDir) {
	m.events++
	d.journal = append(d.journal, m.events)
}

// connect meets the store. A process that is killed on the way has done its first steps.
func (m *model) connect(t *testing.T, d *modelDir, steps int) {
	id := d.id.copied()
	found, err := id.disowned(t.Context(), m.store, uint64(len(d.journal)), d.digestOf)
	if err != nil {
		t.Fatal(err)
	}
	if found.reason != "" {
		m.doubtful = m.doubtful || found.doubts > 0
		if err := id.add(found.from, nil); err != nil {
			t.Fatal(err)
		}
		d.save(id)
	}
	if steps < 1 {
		return
	}
	id = d.id.copied()
	highest, offsets, err := id.highestSession(t.Context(), m.store)
	if err != nil {
		return // it is tried again
	}
	if !d.tookOver || id.Session < highest {
		id.claim(highest)
		d.save(id)
		d.tookOver = true
	}
	if steps < 2 {
		return
	}
	out, err := m.store.Apply(t.Context(), &store.Batch{Producer: id.last().ID, Session: id.Session, Prev: offsets[0], Last: offsets[0]})
	if err != nil || !out.Applied || steps < 3 {
		return
	}
	id = d.id.copied()
	id.confirm(uint64(len(d.journal)))
	d.save(id)
	d.connected = true
}

// sync lets a process connect and count what it has, unless it has found itself fenced.
func (m *model) sync(t *testing.T, d *modelDir) {
	if !d.connected {
		m.connect(t, d, 3)
	}
	for d.connected && !d.fenced && m.applyNext(t, d) {
	}
}

// applyNext sends one batch and says whether there may be another.
func (m *model) applyNext(t *testing.T, d *modelDir) bool {
	for k := range d.id.Producers {
		known, err := m.store.Producer(t.Context(), 0, d.id.Producers[k].ID)
		if err != nil {
			t.Fatal(err)
		}
		position, until := max(known.Offset, d.id.Producers[k].From[0]), min(d.id.until(k, 0), uint64(len(d.journal)))
		last := k == len(d.id.Producers)-1
		if position >= until && !last {
			continue
		}
		if !last {
			if err := d.id.markShared(t.Context(), m.store, k, 0, d.digestOf); err != nil {
				t.Fatal(err)
			}
		}
		b := batchOf(d, k, known, position, max(until, position))
		if b.Session = max(known.Session, sharedSession); last {
			b.Session = d.id.Session
		}
		if _, err := m.store.Apply(t.Context(), b); err != nil { // by a later session
			id := d.id.copied()
			id.Fenced, d.fenced = true, true
			d.save(id)
			return false
		}
		return position < until
	}
	return false
}

func (d *modelDir) digestOf(seq uint64) (digest uint64, ok bool, err error) {
	if seq > uint64(len(d.journal)) || d.journal[seq-1] == 0 {
		return 0, false, nil
	}
	return uint64(d.journal[seq-1]), true, nil
}

func batchOf(d *modelDir, k int, known store.Producer, position, until uint64) *store.Batch {
	types := map[string]uint64{}
	for _, e := range d.journal[min(position, uint64(len(d.journal))):min(until, uint64(len(d.journal)))] {
		if e != 0 {
			types[fmt.Sprint(e)]++
		}
	}
	counted := meter.Series{Family: meter.FamilyEvents, A: "chat"}
	b := &store.Batch{
		Producer: d.id.Producers[k].ID, Prev: known.Offset, Last: max(until, known.Offset),
		Totals: meter.Totals{counted: known.Totals[counted] + uint64(len(types))},
	}
	if len(types) > 0 { // a batch with days must move the offset
		b.Days = map[event.Day]*meter.DayDelta{0: {Types: types}}
	}
	return b
}

// wrong lets every process restart and count what it has, and says what is not as it must be.
func (m *model) wrong(t *testing.T) string {
	for range 3 {
		for _, d := range m.dirs {
			m.open(d)
			m.sync(t, d)
		}
	}
	types, err := m.store.Types(t.Context(), []event.Day{0})
	if err != nil {
		t.Fatal(err)
	}
	has := map[int]bool{}
	for _, d := range m.dirs {
		for _, e := range d.journal {
			has[e] = true
		}
	}
	for e := 1; e <= m.events; e++ {
		switch n := types[0][fmt.Sprint(e)]; {
		case n > 1 && !(m.blocks && m.doubtful):
			return fmt.Sprintf("event %d is counted %d times", e, n)
		case n == 0 && has[e] && !slices.Contains(m.damaged, e):
			return fmt.Sprintf("event %d is not counted", e)
		}
	}
	for i, d := range m.dirs {
		if s := m.ledgerOf(t, d); s != "" && !m.doubtful && len(m.damaged) == 0 {
			return fmt.Sprintf("directory %d: %s", i, s)
		}
	}
	return ""
}

func (m *model) ledgerOf(t *testing.T, d *modelDir) string {
	end, totals := uint64(len(d.journal)), map[ledger.Of]meter.Totals{}
	l := ledger.New(1)
	l.Restore(ledger.Counts{}, ledger.Times{}, end)
	for i, e := range d.journal {
		if e == 0 {
			l.Gap(seqset.Run{First: uint64(i) + 1, Last: uint64(i) + 1})
		}
	}
	for _, p := range d.id.Producers {
		known, err := m.store.Producer(t.Context(), 0, p.ID)
		if err != nil {
			t.Fatal(err)
		}
		totals[ledger.Of{Producer: p.ID}] = known.Totals
	}
	moved := map[int]uint64{0: end}
	l.BeginRecount(moved)
	l.FinishRecount(ledger.Waiting{Types: ledger.Counts{}, Producers: map[string]uint64{}}, totals, moved, d.id.spans())
	if accepted, accounted, wrong := l.Imbalance(); wrong {
		return fmt.Sprintf("the ledger has accepted %d and accounts for %d", accepted, accounted)
	}
	return ""
}

// modelSteps are what may happen. Each returns false where it cannot, or would change nothing.
var modelSteps = map[string]func(t *testing.T, m *model) bool{
	"accept":             func(_ *testing.T, m *model) bool { m.accept(m.dirs[0]); return true },
	"count":              func(t *testing.T, m *model) bool { m.sync(t, m.dirs[0]); return true },
	"restart":            func(_ *testing.T, m *model) bool { m.open(m.dirs[0]); return true },
	"killed joining":     func(t *testing.T, m *model) bool { return m.killedIn(t, 0) },
	"killed claiming":    func(t *testing.T, m *model) bool { return m.killedIn(t, 1) },
	"killed taking over": func(t *testing.T, m *model) bool { return m.killedIn(t, 2) },
	"copy of files":      func(_ *testing.T, m *model) bool { return m.copyBeside(false) },
	"copy of blocks":     func(_ *testing.T, m *model) bool { return m.copyBeside(true) },
	"copy accepts": func(_ *testing.T, m *model) bool {
		if len(m.dirs) == 2 {
			m.accept(m.dirs[1])
		}
		return len(m.dirs) == 2
	},
	"copy counts": func(t *testing.T, m *model) bool {
		if len(m.dirs) == 2 {
			m.sync(t, m.dirs[1])
		}
		return len(m.dirs) == 2
	},
	"copy restarts": func(_ *testing.T, m *model) bool {
		if len(m.dirs) == 2 {
			m.open(m.dirs[1])
		}
		return len(m.dirs) == 2
	},
	"backup":            func(_ *testing.T, m *model) bool { m.backup = m.copyOf(m.dirs[0], true); return true },
	"restore of files":  func(_ *testing.T, m *model) bool { return m.restore(false) },
	"restore of blocks": func(_ *testing.T, m *model) bool { return m.restore(true) },
	"journal lost": func(_ *testing.T, m *model) bool {
		d := m.dirs[0]
		m.damaged = slices.Concat(m.damaged, d.journal)
		d.journal, d.kept = nil, nil
		m.open(d)
		return true
	},
	"store lost": func(_ *testing.T, m *model) bool {
		if m.twoDisks() {
			return false
		}
		m.store = storetest.NewMemory(1)
		return m.events > 0
	},
	"store saved": func(_ *testing.T, m *model) bool { m.saved = m.store.Clone(); return true },
	"store put back": func(_ *testing.T, m *model) bool {
		if m.saved == nil || m.twoDisks() {
			return false
		}
		m.store = m.saved.Clone()
		return true
	},
}

func (m *model) killedIn(t *testing.T, steps int) bool {
	if m.dirs[0].connected {
		return false
	}
	m.connect(t, m.dirs[0], steps)
	m.open(m.dirs[0])
	return true
}

// twoDisks says that a block-level copy counts beside the original. Where the store then loses what it knew of the two, nothing
// tells them apart.
func (m *model) twoDisks() bool { return len(m.dirs) == 2 && m.blocks }

// mixed says that a disk is put back to older blocks although a copy of its files counts beside it. The copy then takes what the
// original counts after that for what both had: this is told by nothing.
func (m *model) mixed(blocks bool) bool { return len(m.dirs) == 2 && blocks != m.blocks }

func (m *model) copyBeside(blocks bool) bool {
	if len(m.dirs) == 2 || !blocks && m.blocks || blocks && m.saved != nil {
		return false
	}
	m.blocks = m.blocks || blocks
	m.dirs = append(m.dirs, m.copyOf(m.dirs[0], blocks))
	m.open(m.dirs[1])
	return true
}

func (m *model) restore(blocks bool) bool {
	if m.backup == nil || blocks && m.mixed(blocks) {
		return false
	}
	m.blocks = m.blocks || blocks
	m.dirs[0] = m.copyOf(m.backup, blocks)
	m.open(m.dirs[0])
	return true
}

// explore goes through all orders of so many steps that follow those that were done.
func (m *model) explore(t *testing.T, names []string, done []string, depth int) (orders int, wrong string) {
	if s := m.clone().wrong(t); s != "" {
		return 1, fmt.Sprintf("%s, after: %s", s, strings.Join(done, ", "))
	}
	orders = 1
	for _, name := range names {
		if depth == 0 || len(done) > 0 && name != "accept" && done[len(done)-1] == name { // the second time it does nothing more
			continue
		}
		next := m.clone()
		if !modelSteps[name](t, next) {
			continue
		}
		n, wrong := next.explore(t, names, append(slices.Clone(done), name), depth-1)
		if orders += n; wrong != "" {
			return orders, wrong
		}
	}
	return orders, ""
}

func TestOrdersOfIdentity(t *testing.T) {
	t.Parallel()
	for name, steps := range map[string]struct {
		depth int
		names []string
	}{
		"copies of files":    {5, []string{"accept", "count", "restart", "copy of files", "copy accepts", "copy counts", "copy restarts", "store lost"}},
		"copies of blocks":   {6, []string{"accept", "count", "restart", "copy of blocks", "copy accepts", "copy counts", "copy restarts"}},
		"restores of files":  {6, []string{"accept", "count", "restart", "backup", "restore of files", "journal lost", "copy of files", "copy counts"}},
		"restores of blocks": {6, []string{"accept", "count", "restart", "backup", "restore of blocks", "store lost"}},
		"stores put back":    {5, []string{"accept", "count", "restart", "store saved", "store put back", "backup", "restore of files"}},
		"kills":              {4, slices.Sorted(maps.Keys(modelSteps))},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			depth := steps.depth
			if os.Getenv("USAGE_TEST_FULL") != "" {
				depth++
			}
			orders, wrong := newModel().explore(t, steps.names, nil, depth)
			if wrong != "" {
				t.Error(wrong)
			}
			t.Logf("%d orders", orders)
		})
	}
}
