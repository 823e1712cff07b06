package clock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"usaged/aggregator/durable"
)

// fileFormat is the format of the file. None without a checksum is believed.
var fileFormat = durable.Format{Version: 2, Plain: -1}

const (
	// lookInterval is how often Run looks at the wall clock, so that a jump shows although nobody asks for the time.
	lookInterval = time.Second
	// saveInterval is how often Run saves the file. A start after a boot knows the time that was saved last.
	saveInterval = time.Minute
)

// saved is the content of the file. After a crash it is up to saveInterval old, which matters only after a boot, and then
// only to how much the daemon doubts its clock.
type saved struct {
	BootID string `json:"boot_id"`
	// SinceBoot is when Expected and Now were true.
	SinceBoot time.Duration `json:"since_boot_nanos"`
	Expected  time.Time     `json:"expected"`
	Now       time.Time     `json:"now"`
	Doubt     time.Duration `json:"doubt_nanos"`
	Steady    time.Duration `json:"steady_nanos"`
}

// Open returns a clock that goes on where the file says that an earlier process has stopped. It never fails: whatever is
// wrong with the file, events must be accepted and stamped.
func Open(cfg Config) *Clock {
	if cfg.Machine.Read == nil {
		cfg.Machine = ThisMachine()
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	c := &Clock{machine: cfg.Machine, path: cfg.Path, log: cfg.Log}
	wall, sinceBoot := c.machine.Read()
	wall = wall.UTC().Round(0)
	file, err := readFile(cfg.Path)
	if err != nil {
		c.saveErrors++
		c.log.Error("the file of the clock cannot be used; the newest stamp in the journal takes its place", "path", cfg.Path, "err", err)
	}
	switch {
	case file != nil && file.BootID != "" && file.BootID == c.machine.BootID && file.SinceBoot <= sinceBoot:
		c.read, c.expected, c.now, c.doubt, c.steady = file.SinceBoot, file.Expected, file.Now, file.Doubt, file.Steady
	case file != nil:
		c.doubt, c.steady, c.booting = file.Doubt, min(file.Steady, steadyFor-steadyAgain), true
		c.resume(wall, sinceBoot, file.Now)
	default:
		c.resume(wall, sinceBoot, c.newestStamp(cfg.Newest))
	}
	c.Now()
	c.save()
	return c
}

// resume begins where nothing says for how long the daemon was off. known is the last time that it knew, the zero time where it
// knew none.
func (c *Clock) resume(wall time.Time, sinceBoot time.Duration, known time.Time) {
	c.read, c.expected, c.now = sinceBoot, wall, wall
	if known.IsZero() {
		return
	}
	switch off := wall.Sub(known); {
	case off < -Tolerance: // the next look raises the alarm
		c.expected, c.now = known, known
	case off < 0:
		c.now = known
	case off > Tolerance:
		c.doubt += off
	}
	if c.doubt > 0 {
		c.log.Info("the daemon cannot know for how long it was off; until the wall clock has been right for a day of running, nothing is deleted that might be too young",
			"off_seconds", c.doubt.Seconds())
	}
}

// newestStamp asks for the newest stamp of an earlier process.
func (c *Clock) newestStamp(newest func() (time.Time, error)) time.Time {
	if newest == nil {
		return time.Time{}
	}
	stamp, err := newest()
	if err != nil {
		c.saveErrors++
		c.log.Error("the newest stamp in the journal could not be read; the wall clock is believed", "err", err)
	}
	return stamp
}

// Accept makes the wall clock's time the time, however far it is off, also for deletion. When it returns nil that survives
// a crash; on an error nothing has changed.
func (c *Clock) Accept() (State, error) {
	c.saveMu.Lock()
	defer c.saveMu.Unlock()
	c.mu.Lock()
	wall := c.look()
	before, content := c.now, c.content()
	jump := c.jump
	c.mu.Unlock()
	content.Expected, content.Now, content.Doubt, content.Steady = wall, wall, 0, 0
	if err := c.write(content); err != nil {
		return c.State(), fmt.Errorf("accept the wall clock: %w: see that the disk has room, and try again", err)
	}
	c.mu.Lock()
	c.read, c.expected, c.now, c.jump, c.doubt, c.steady, c.booting = content.SinceBoot, wall, wall, 0, 0, 0, false
	c.mu.Unlock()
	c.log.Warn("an operator has accepted the wall clock: it is the time by which events are stamped and old data is deleted",
		"before", before, "time", wall, "jump_seconds", jump.Seconds())
	return c.State(), nil
}

// Run looks at the clock and saves the file from time to time, and at the end, until ctx ends.
func (c *Clock) Run(ctx context.Context) {
	look := time.NewTicker(lookInterval)
	defer look.Stop()
	defer c.save()
	last := c.State().Now
	for {
		select {
		case <-look.C:
		case <-ctx.Done():
			return
		}
		if now := c.Now(); now.Sub(last).Abs() >= saveInterval {
			c.save()
			last = now
		}
	}
}

// content is what the file should say. c.mu is held.
func (c *Clock) content() saved {
	return saved{
		BootID: c.machine.BootID, SinceBoot: c.read,
		Expected: c.expected, Now: c.now, Doubt: c.doubt, Steady: c.steady,
	}
}

// save writes the file. What is lost where that fails is how long the daemon was off, should the machine boot next.
func (c *Clock) save() {
	c.saveMu.Lock()
	defer c.saveMu.Unlock()
	c.mu.Lock()
	c.look()
	content := c.content()
	c.mu.Unlock()
	if err := c.write(content); err != nil {
		c.mu.Lock()
		c.saveErrors++
		c.mu.Unlock()
		c.log.Warn("the file of the clock could not be saved; trying again in a minute", "path", c.path, "err", err)
	}
}

// write replaces the file. c.saveMu is held.
func (c *Clock) write(s saved) error { return fileFormat.SaveJSON(c.path, s, 0o640) }

// readFile returns what the file says, nil where there is none.
func readFile(path string) (*saved, error) {
	s := &saved{}
	_, err := fileFormat.LoadJSON(path, s)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}
