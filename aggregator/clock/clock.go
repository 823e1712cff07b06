// Package clock tells the time by which events are stamped and old data is deleted, and is not fooled by a wall clock that
// somebody sets wrong.
//
// A wall clock can be set to anything: by a bad answer of a time server, by a virtual machine that wakes up with another
// machine's time, by a person. A daemon that believes it deletes what it should keep, and counts twice what it has just
// counted once. So a [Clock] compares the wall clock with the boot clock, which nobody can set and which runs on while
// the machine is suspended:
//
//   - As long as the two agree within [Tolerance] the time is that of the wall clock. What a time server corrects smoothly
//     never adds up to a disagreement; steps do, also small ones.
//   - Where they disagree, the wall clock has jumped. Until it is back, or until Accept is called, the time goes on by the
//     boot clock. Nothing else changes: events are accepted, stamped and counted. An alarm is raised.
//   - The time never goes back, except where Accept says so. Where the wall clock is set back a little the time stands
//     still until it has caught up.
//
// Over a restart the same holds, since the boot clock goes on and a small file says what time it was. Where the machine was
// restarted too, or the data directory has moved to another one, nothing can say how long the daemon was off:
//
//	the wall clock says             the time is                    deletion goes by
//	later than the file or journal  that of the wall clock         the time that the daemon last knew, going on from
//	                                                               there, until the clock has been right for a day of
//	                                                               running
//	as late, within the Tolerance   that of the wall clock         the same time
//	earlier                         the last known, going on:      the same time
//	                                this is a jump
//	no file and no journal          that of the wall clock         the same time
//
// So a daemon that was off for a month starts and works without anybody's help, and a machine that boots with a wrong clock
// deletes nothing for a day. As many machines know the time a little after they have booted, a step ahead within the first
// ten minutes after the boot counts as part of the start. And before 2024 it cannot be: a clock that began there is
// believed as soon as it is set to a later time.
//
// What the package cannot see: a wrong clock at the very first start, and a hypervisor that pauses the machine with its boot
// clock. The first shows when the clock is corrected, the second when the machine goes on; both are jumps, and Accept is the
// answer.
package clock

import (
	"log/slog"
	"sync"
	"time"
)

const (
	// Tolerance is how far the wall clock may be from the boot clock. It is more than time servers step a clock that they
	// keep, and less than what would matter to retention and ids.
	Tolerance = 5 * time.Minute
	// maxDrift is the share of the elapsed time that the wall clock may gain or lose without being wrong: twice as much as
	// the kernel corrects a clock smoothly (500 ppm).
	maxDrift = 1000
	// steadyFor is how long the wall clock must have been right after a start that could not check it, before it decides what
	// is deleted; steadyAgain of this must be after the last such start. So a machine that is switched off each night deletes too.
	steadyFor   = 24 * time.Hour
	steadyAgain = time.Hour
	// bootFor is how long after the boot the wall clock may still be set to the right time.
	bootFor = 10 * time.Minute
)

// earliest is a time before which no clock is right: this software did not exist.
var earliest = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

// Machine is what the machine knows of time.
type Machine struct {
	// Read returns the wall clock and the time since the boot, from one moment. The second goes on while the machine is
	// suspended, and cannot be set.
	Read func() (wall time.Time, sinceBoot time.Duration)
	// BootID names the boot from which the time counts; empty where that is not known.
	BootID string
}

// Config assembles a clock.
type Config struct {
	// Path is the file that carries the time over a restart. Required.
	Path string
	// Machine has the clocks, ThisMachine where it is zero.
	Machine Machine
	// Newest returns the newest stamp that was given by an earlier process, the zero time where there is none. It is asked
	// where the file is missing or damaged. May be nil.
	Newest func() (time.Time, error)
	// Log gets alarms. Discarded where nil.
	Log *slog.Logger
}

// Clock tells the time. It is safe for concurrent use.
type Clock struct {
	machine Machine
	path    string
	log     *slog.Logger

	mu sync.Mutex
	// read is the time since the boot at which what follows was true.
	read time.Duration
	// expected is what the wall clock should have said then, now what Now returned.
	expected, now time.Time
	// jump is by how much the wall clock is wrong, 0 where it is right.
	jump  time.Duration
	jumps uint64
	// doubt is how much earlier than now the daemon may in truth be, see Deletion; steady is for how long the wall clock has
	// been right since that began.
	doubt, steady time.Duration
	// booting says that the machine may not know the time yet.
	booting bool

	saveMu     sync.Mutex
	saveErrors uint64
}

// State is what a clock knows.
type State struct {
	// Wall is what the machine says, Now the time that counts.
	Wall, Now time.Time
	// Deletion is the time by which old data is deleted. It is earlier than Now where the daemon cannot know how long it was off.
	Deletion time.Time
	// Jump is how far the wall clock is ahead of the time, negative where it is behind; 0 where it is right.
	Jump time.Duration
	// Jumps is the number of jumps since the start of the process.
	Jumps uint64
	// SaveErrors is how often the file could not be read or written.
	SaveErrors uint64
}

// Now returns the time, in UTC.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.look()
	return c.now
}

// Deletion returns the time by which it is decided what is too old to be kept. It is never later than Now.
func (c *Clock) Deletion() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.look()
	return c.now.Add(-c.doubt)
}

// Latest returns the later one of Now and the wall clock. Senders whose clocks are right must not be told that their events are
// from the future because ours is the one that stands still.
func (c *Clock) Latest() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	wall := c.look()
	if wall.After(c.now) {
		return wall
	}
	return c.now
}

// State returns all that is known.
func (c *Clock) State() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	wall := c.look()
	return State{Wall: wall, Now: c.now, Deletion: c.now.Add(-c.doubt), Jump: c.jump, Jumps: c.jumps, SaveErrors: c.saveErrors}
}

// look reads the machine's clocks and moves the time on. It returns what the wall clock says.
func (c *Clock) look() time.Time {
	wall, sinceBoot := c.machine.Read()
	wall = wall.UTC().Round(0)
	elapsed := max(0, sinceBoot-c.read)
	c.read = max(c.read, sinceBoot)
	c.expected, c.now = c.expected.Add(elapsed), c.now.Add(elapsed)
	off := wall.Sub(c.expected)
	if off > Tolerance && (c.expected.Before(earliest) || c.booting && sinceBoot < bootFor) {
		c.doubt, c.steady = c.doubt+off, min(c.steady, steadyFor-steadyAgain)
		c.expected, c.now = wall, wall
		c.log.Info("the wall clock has been set after the boot of the machine", "ahead_seconds", off.Seconds())
		off = 0
	}
	if off.Abs() > Tolerance {
		c.mistrust(off)
		return wall
	}
	c.trust(wall, off, elapsed)
	return wall
}

// mistrust lets the time go on by the boot clock.
func (c *Clock) mistrust(off time.Duration) {
	if c.jump == 0 {
		c.jumps++
		c.log.Error("the wall clock has jumped; events are stamped, and old data is deleted, by the time before the jump until the clock is back: "+
			"set it right, or run `usagectl clock accept` where it is right now", "jump_seconds", off.Seconds(), "time", c.now)
	}
	c.jump = off
}

// trust lets the time be that of the wall clock, which is off by less than Tolerance.
func (c *Clock) trust(wall time.Time, off, elapsed time.Duration) {
	if c.jump != 0 {
		c.jump = 0
		c.log.Info("the wall clock is right again", "time", wall)
	}
	drift := elapsed / maxDrift
	c.expected = c.expected.Add(min(max(off, -drift), drift))
	if before := c.now.Add(-elapsed); wall.After(before) {
		c.now = wall
	} else {
		c.now = before // it was set back a little
	}
	if c.doubt == 0 {
		return
	}
	if c.steady += elapsed; c.steady >= steadyFor {
		c.doubt, c.steady = 0, 0
		c.log.Info("the wall clock has been right for a day of running; it decides again what is deleted")
	}
}
