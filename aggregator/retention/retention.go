// Package retention decides for how many days rollups and events are kept when an operator changes his mind about it.
//
// More days are kept from the moment on at which they are asked for. Fewer are not deleted at once: a wrong number in a file
// would cost history that nobody can bring back. For [Grace] everything is kept as before, while reads and the times that
// events may have follow the new number. Who asks for as many days as before within that time has lost nothing; Apply ends
// the wait.
//
// How many days are kept, and since when fewer are asked for, is in a small file. Where that is missing or damaged as many
// days are taken for kept as are asked for, and what there is beyond them is deleted: it says so in the log first.
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
}

// Config assembles a policy.
type Config struct {
	// Path is the file. Required.
	Path string
	// Days is how many days are asked for. Required.
	Days int
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
	// Failures is how often the file could not be read or written.
	Failures uint64
}

// Pending says that days are going to be deleted because fewer are asked for.
func (s State) Pending() bool { return !s.Due.IsZero() }

// Open reads the file and compares it with what is asked for now. It never fails: what cannot be read or written costs the wait
// that it stands for at the next start, and that is logged and counted.
func Open(cfg Config) *Policy {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	p := &Policy{cfg: cfg, log: cfg.Log}
	before, known := p.load()
	p.state = decide(before, cfg.Days, cfg.Now())
	switch s := p.state; {
	case known && s == before:
		return p
	case !s.Due.IsZero() && before.Due.IsZero():
		p.log.Warn("fewer days are asked for than are kept; those beyond will be deleted when they are due: see `usagectl retention`, and ask for as many "+
			"days as before to keep them", "asked_days", s.Asked, "kept_days", s.Kept, "due", s.Due)
	case known && s.Due.IsZero() && s.Kept != before.Kept:
		p.log.Info("the number of days that are kept has changed", "days", s.Kept, "before", before.Kept)
	case !before.Due.IsZero():
		p.log.Info("as many days are asked for as are kept; none will be deleted early", "days", s.Kept)
	}
	p.save(p.state)
	return p
}

// load returns what the file says, and as many days kept as are asked for where it says nothing.
func (p *Policy) load() (s saved, known bool) {
	_, err := fileFormat.LoadJSON(p.cfg.Path, &s)
	if err == nil && s.Kept > 0 {
		return s, true
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		p.failures++
		p.log.Error("the file of the retention cannot be used; as many days are taken for kept as are asked for", "days", p.cfg.Days, "err", err)
	}
	return saved{Kept: p.cfg.Days, Asked: p.cfg.Days}, false
}

// decide returns how many days are kept after so many are asked for.
func decide(before saved, asked int, now time.Time) saved {
	s := before
	if !s.Due.IsZero() && !now.Before(s.Due) {
		s.Kept, s.Due = s.Asked, time.Time{} // it was due while nobody looked
	}
	switch {
	case asked >= s.Kept:
		return saved{Kept: asked, Asked: asked}
	case asked == s.Asked && !s.Due.IsZero():
		return s
	default: // also where another number was asked for meanwhile
		return saved{Kept: s.Kept, Asked: asked, Due: now.Add(Grace)}
	}
}

// Kept returns how many days are kept.
func (p *Policy) Kept() int { return p.State().Kept }

// State returns how things stand.
func (p *Policy) State() State {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.state.Due.IsZero() && !p.cfg.Now().Before(p.state.Due) {
		s := saved{Kept: p.state.Asked, Asked: p.state.Asked}
		p.log.Warn("a day has passed since fewer days were asked for; those beyond are deleted now", "days", s.Kept, "kept_before", p.state.Kept)
		p.state = s
		p.save(s) // where that fails it is due again at the next start
	}
	return State{Days: p.cfg.Days, Kept: p.state.Kept, Due: p.state.Due, Failures: p.failures}
}

// ErrNotSaved says that a decision could not be noted, and so was not taken.
var ErrNotSaved = errors.New("the file of the retention could not be written")

// Apply has the days beyond those asked for deleted without a further wait. When it returns nil that survives a crash; an error
// is ErrNotSaved (errors.Is), and nothing has changed.
func (p *Policy) Apply() (State, error) {
	p.mu.Lock()
	s := saved{Kept: p.state.Asked, Asked: p.state.Asked}
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
