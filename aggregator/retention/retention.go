// Package retention decides for how many days rollups and events are kept when an operator changes his mind about it.
//
// More days are kept from the moment on at which they are asked for. Fewer are not deleted at once: a wrong number in a file
// would cost history that nobody can bring back. For [Grace] everything is kept as before, while reads and the times that
// events may have follow the new number. Who asks for as many days as before within that time has lost nothing; Apply ends
// the wait.
//
// How many days are kept, and since when fewer are asked for, is in a small file. Where that is damaged, or missing beside data,
// nobody knows how many days were kept: then everything is kept for [Grace], as if fewer had been asked for.
//
// After more days are asked for than were kept, [Policy.Raised] says so until [Policy.Restored] is called: what was deleted
// meanwhile may be brought back from elsewhere.
package retention

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"usaged/aggregator/durable"
)

// Grace is how long days are kept on after fewer have been asked for.
const Grace = 24 * time.Hour

var fileFormat = durable.Format{Version: 1, Plain: -1}

// saved is the content of the file.
type saved struct {
	// Kept is how many days are kept, Asked how many were asked for last.
	Kept  int `json:"kept_days"`
	Asked int `json:"asked_days"`
	// Due is when Kept becomes Asked; zero where they are the same.
	Due time.Time `json:"due,omitzero"`
	// Lost says that Kept is a guess, because the file before this one was lost.
	Lost bool `json:"lost,omitempty"`
	// Raised is the fewest days that were kept before more were asked for, until somebody has looked after the others; 0 otherwise.
	Raised int `json:"raised_from_days,omitempty"`
}

// Config assembles a policy.
type Config struct {
	// Path is the file. Required.
	Path string
	// Days is how many days are asked for, Most how many can be. Days is required; Most is it where 0.
	Days, Most int
	// New says that there is no data yet, so that a missing file is what is to be expected.
	New bool
	// Now is a clock that is not fooled by a wall clock that is set wrong, such as the one by which data is deleted. Required.
	Now func() time.Time
	// Log gets what operators should know. Discarded where nil.
	Log *slog.Logger
}

// Policy says how many days are kept. It is safe for concurrent use.
type Policy struct {
	cfg Config
	log *slog.Logger

	mu    sync.Mutex
	state saved
	// failures counts attempts to read or write the file that failed.
	failures uint64
}

// State is how a policy stands.
type State struct {
	// Days is how many days are asked for, and can be read. Kept is how many are kept: never fewer.
	Days, Kept int
	// Due is when the days beyond Days will be deleted; zero where there are none.
	Due time.Time
	// Lost says that it is not known how many days were kept. Kept is then as many as can be.
	Lost bool
	// Failures is how often the file could not be read or written.
	Failures uint64
}

// Pending says that days are going to be deleted because fewer are asked for.
func (s State) Pending() bool { return !s.Due.IsZero() }

// Open reads the file and compares it with what is asked for now. It never fails: what cannot be read costs a wait before
// anything is deleted, what cannot be written another one at the next start, and both are logged and counted.
func Open(cfg Config) *Policy {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	cfg.Most = max(cfg.Most, cfg.Days)
	p := &Policy{cfg: cfg, log: cfg.Log}
	before, known := p.load()
	p.state = decide(before, cfg.Days, cfg.Now())
	if known && p.state == before {
		return p
	}
	p.report(before)
	p.save(p.state)
	return p
}

// report says in the log what has changed since the last start.
func (p *Policy) report(before saved) {
	switch s := p.state; {
	case s.Lost && !s.Due.Equal(before.Due):
		p.log.Warn("it is not known for how many days data was kept before; what is beyond those asked for now will be deleted when it is due: see "+
			"`usagectl retention`, and ask for as many days as before to keep it", "asked_days", s.Asked, "due", s.Due)
	case !s.Due.IsZero() && before.Due.IsZero():
		p.log.Warn("fewer days are asked for than are kept; those beyond will be deleted when they are due: see `usagectl retention`, and ask for as many "+
			"days as before to keep them", "asked_days", s.Asked, "kept_days", s.Kept, "due", s.Due)
	case s.Due.IsZero() && s.Kept != before.Kept:
		p.log.Info("the number of days that are kept has changed", "days", s.Kept, "before", before.Kept)
	case !before.Due.IsZero():
		p.log.Info("as many days are asked for as are kept; none will be deleted early", "days", s.Kept)
	}
}

// load returns what the file says. Where it says nothing as many days are taken for kept as are asked for if there is no data yet, and
// as many as can be if there is some.
func (p *Policy) load() (s saved, known bool) {
	_, err := fileFormat.LoadJSON(p.cfg.Path, &s)
	if err == nil && s.Kept > 0 {
		return s, true
	}
	missing := errors.Is(err, fs.ErrNotExist)
	if missing && p.cfg.New {
		return saved{Kept: p.cfg.Days, Asked: p.cfg.Days}, false
	}
	if !missing {
		p.failures++
		p.log.Error("the file of the retention cannot be used; nothing is deleted because of the retention for a day", "path", p.cfg.Path, "err", err)
	}
	return saved{Kept: p.cfg.Most, Asked: p.cfg.Most, Lost: true, Raised: 1}, false
}

// decide returns how many days are kept after so many are asked for.
func decide(before saved, asked int, now time.Time) saved {
	s := before
	if !s.Due.IsZero() && !now.Before(s.Due) {
		s = s.applied() // it was due while nobody looked
	}
	switch {
	case asked > s.Kept:
		raised := s.Kept
		if s.Raised > 0 {
			raised = min(raised, s.Raised)
		}
		return saved{Kept: asked, Asked: asked, Raised: raised}
	case asked == s.Kept:
		return saved{Kept: asked, Asked: asked, Raised: s.Raised}
	case asked == s.Asked && !s.Due.IsZero():
		return s
	default: // also where another number was asked for meanwhile
		return saved{Kept: s.Kept, Asked: asked, Due: now.Add(Grace), Lost: s.Lost, Raised: s.Raised}
	}
}

// applied is what follows when the wait is over.
func (s saved) applied() saved { return saved{Kept: s.Asked, Asked: s.Asked, Raised: s.Raised} }

// Kept returns how many days are kept.
func (p *Policy) Kept() int { return p.State().Kept }

// Written returns for how many days what is written is meant to be kept: as Kept says, but not as many as can be where it is not known
// how many were kept before.
func (p *Policy) Written() int {
	if s := p.State(); !s.Lost {
		return s.Kept
	}
	return p.cfg.Days
}

// Raised returns the fewest days that were kept before more were asked for, so that those beyond may have been deleted; 0 where
// that is not so.
func (p *Policy) Raised() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state.Raised
}

// Restored has Raised return 0 from now on. Where that cannot be saved it says the same again at the next start.
func (p *Policy) Restored() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state.Raised = 0
	p.save(p.state)
}

// State returns how things stand.
func (p *Policy) State() State {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.state.Due.IsZero() && !p.cfg.Now().Before(p.state.Due) {
		s := p.state.applied()
		p.log.Warn("a day has passed since fewer days were asked for; those beyond are deleted now", "days", s.Kept, "kept_before", p.state.Kept)
		p.state = s
		p.save(s) // where that fails it is due again at the next start
	}
	return State{Days: p.cfg.Days, Kept: p.state.Kept, Due: p.state.Due, Lost: p.state.Lost, Failures: p.failures}
}

// ErrNotSaved says that a decision could not be noted, and so was not taken.
var ErrNotSaved = errors.New("the file of the retention could not be written")

// Apply has the days beyond those asked for deleted without a further wait. When it returns nil that survives a crash; an error
// is ErrNotSaved (errors.Is), and nothing has changed.
func (p *Policy) Apply() (State, error) {
	p.mu.Lock()
	s := p.state.applied()
	if !p.state.Due.IsZero() {
		if err := fileFormat.SaveJSON(p.cfg.Path, s, 0o640); err != nil {
			p.mu.Unlock()
			return p.State(), fmt.Errorf("apply the retention: %w: %w: see that the disk has room, and try again", ErrNotSaved, err)
		}
		p.log.Warn("an operator has the days deleted that are not asked for any more", "days", s.Kept, "kept_before", p.state.Kept)
		p.state = s
	}
	p.mu.Unlock()
	return p.State(), nil
}

// save writes the file. p.mu is held, or nobody else has p yet.
func (p *Policy) save(s saved) {
	if err := fileFormat.SaveJSON(p.cfg.Path, s, 0o640); err != nil {
		p.failures++
		p.log.Warn("the file of the retention could not be written; fewer days would be waited for from the next start on", "path", p.cfg.Path, "err", err)
	}
}
