package clock_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"usaged/aggregator/clock"
)

var begin = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

// machine is a machine whose clocks the test moves.
type machine struct {
	mu        sync.Mutex
	wall      time.Time
	sinceBoot time.Duration
	boot      string
}

func newMachine() *machine { return &machine{wall: begin, sinceBoot: 100 * time.Hour, boot: "first"} }

// pass lets time pass.
func (m *machine) pass(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wall, m.sinceBoot = m.wall.Add(d), m.sinceBoot+d
}

// step sets the wall clock.
func (m *machine) step(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wall = m.wall.Add(d)
}

// reboot starts the machine again after it was off for a while, with a wall clock that is wrong by so much.
func (m *machine) reboot(off, wrong time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wall, m.sinceBoot, m.boot = m.wall.Add(off+wrong), time.Minute, m.boot+" and again"
}

func (m *machine) clocks() clock.Machine {
	m.mu.Lock()
	defer m.mu.Unlock()
	return clock.Machine{BootID: m.boot, Read: func() (time.Time, time.Duration) {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.wall, m.sinceBoot
	}}
}

// fixture is a clock on a machine.
type fixture struct {
	*testing.T
	*machine
	path   string
	newest time.Time
	clock  *clock.Clock
}

func newFixture(t *testing.T) *fixture {
	f := &fixture{T: t, machine: newMachine(), path: filepath.Join(t.TempDir(), "clock.json")}
	f.restart()
	return f
}

// restart opens the clock anew, as after a crash.
func (f *fixture) restart() {
	f.Helper()
	f.clock = clock.Open(clock.Config{Path: f.path, Machine: f.clocks(), Newest: func() (time.Time, error) { return f.newest, nil }})
}

// wants checks the time, as the distance from begin, and whether there is an alarm.
func (f *fixture) wants(what string, now time.Duration, alarm bool) {
	f.Helper()
	s := f.clock.State()
	if got := s.Now.Sub(begin); got != now || (s.Jump != 0) != alarm {
		f.Errorf("%s: the time is %v after the beginning, jump %v; want %v, alarm %v", what, got, s.Jump, now, alarm)
	}
	if again := f.clock.Now(); !again.Equal(s.Now) {
		f.Errorf("%s: Now returns %v, State %v", what, again, s.Now)
	}
}

// wantsDoubt checks how much earlier the time of deletion is.
func (f *fixture) wantsDoubt(what string, want time.Duration) {
	f.Helper()
	if got := f.clock.Now().Sub(f.clock.Deletion()); got != want {
		f.Errorf("%s: deletion is %v behind the time, want %v", what, got, want)
	}
}

const day = 24 * time.Hour

func TestJumps(t *testing.T) {
	t.Parallel()
	for name, jump := range map[string]time.Duration{
		"60 days ahead": 60 * day, "4 days ahead": 4 * day, "a day back": -day, "to 1970": -begin.Sub(time.Unix(0, 0)),
		"6 minutes ahead": 6 * time.Minute, "6 minutes back": -6 * time.Minute,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.pass(time.Hour)
			f.step(jump)
			f.wants("after the jump", time.Hour, true)
			f.pass(time.Hour)
			f.wants("an hour later", 2*time.Hour, true)
			f.wantsDoubt("an hour later", 0)
			f.restart()
			f.wants("after a restart", 2*time.Hour, true)
			f.pass(time.Hour)
			f.step(-jump)
			f.wants("back", 3*time.Hour, false)
			if s := f.clock.State(); s.Jumps != 1 {
				t.Errorf("%d jumps are counted since the restart, want 1", s.Jumps)
			}
		})
	}
}

func TestAccept(t *testing.T) {
	t.Parallel()
	for name, jump := range map[string]time.Duration{"ahead": 60 * day, "back": -60 * day} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.step(jump)
			f.wants("before", 0, true)
			if s, err := f.clock.Accept(); err != nil || s.Now.Sub(begin) != jump || s.Jump != 0 {
				t.Fatalf("Accept: %+v, %v", s, err)
			}
			f.pass(time.Minute)
			f.wants("a minute later", jump+time.Minute, false)
			f.newest = begin // the journal knows another time, and is not asked
			f.restart()
			f.wants("after a restart", jump+time.Minute, false)
			f.reboot(time.Minute, 0)
			f.restart()
			f.wants("after a boot", jump+2*time.Minute, false)
			f.pass(time.Hour)
			f.step(-jump)
			f.wants("set to what it was", jump+time.Hour+2*time.Minute, true)
		})
	}
}

func TestAcceptThatCannotBeSaved(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.step(60 * day)
	if err := os.RemoveAll(filepath.Dir(f.path)); err != nil {
		t.Fatal(err)
	}
	if _, err := f.clock.Accept(); err == nil {
		t.Error("Accept returned nil although the file could not be written")
	}
	f.wants("after it", 0, true)
}

func TestSmallSteps(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.step(-4 * time.Minute)
	f.wants("set back by less than the tolerance", 0, false)
	f.pass(3 * time.Minute)
	f.wants("3 minutes later, still standing", 0, false)
	f.pass(2 * time.Minute)
	f.wants("5 minutes later", time.Minute, false)
	f.step(4 * time.Minute)
	f.wants("set ahead", 5*time.Minute, false)
	f.step(4 * time.Minute)
	f.wants("again", 9*time.Minute, false)
	f.step(4 * time.Minute)
	f.wants("and again, which adds up to more than the tolerance", 9*time.Minute, true)
}

// TestSmoothCorrection lets the wall clock run 0.05% too fast for a month, as a time server may have it.
func TestSmoothCorrection(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for range 30 * 24 {
		f.pass(time.Hour)
		f.step(time.Hour / 2000)
		if s := f.clock.State(); s.Jump != 0 || !s.Now.Equal(s.Wall) {
			t.Fatalf("the time is %v by the wall clock's %v, jump %v", s.Now, s.Wall, s.Jump)
		}
	}
}

func TestTimeNeverGoesBack(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	last := f.clock.Now()
	for i, step := range []time.Duration{0, time.Minute, -2 * time.Minute, day, -day, -day, 3 * time.Minute, day, -4 * time.Minute, 2 * time.Minute} {
		f.step(step)
		f.pass(time.Second)
		now := f.clock.Now()
		if now.Before(last) || now.Sub(last) > 2*clock.Tolerance {
			t.Errorf("step %d of %v: the time went from %v to %v", i, step, last, now)
		}
		if latest := f.clock.Latest(); latest.Before(now) || latest.Before(f.clock.State().Wall) {
			t.Errorf("step %d of %v: Latest is %v at %v", i, step, latest, now)
		}
		last = now
	}
}

func TestOffForAMonth(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.pass(30 * day)
	f.restart()
	f.wants("after a restart without a boot", 30*day, false)
	f.wantsDoubt("after a restart without a boot", 0)
	f.reboot(30*day, 0)
	f.restart()
	f.wants("after a boot", 60*day, false)
	f.wantsDoubt("after a boot", 30*day)
	f.pass(23 * time.Hour)
	f.wantsDoubt("23 hours later", 30*day)
	f.restart()
	f.wantsDoubt("after a restart", 30*day)
	f.pass(2 * time.Hour)
	f.wants("25 hours later", 61*day+time.Hour, false)
	f.wantsDoubt("25 hours later", 0)
}

// TestOffEachNight switches the machine off each night: what is too old is deleted all the same.
func TestOffEachNight(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for range 30 {
		for range 16 {
			f.pass(time.Hour)
			f.clock.Now()
		}
		f.restart() // saves
		f.reboot(8*time.Hour, 0)
		f.restart()
		if behind := f.clock.Now().Sub(f.clock.Deletion()); behind > 3*8*time.Hour {
			t.Fatalf("deletion is %v behind the time", behind)
		}
	}
}

func TestBoot(t *testing.T) {
	t.Parallel()
	t.Run("a clock that is behind is not believed", func(t *testing.T) {
		t.Parallel()
		f := newFixture(t)
		f.reboot(time.Hour, -60*day)
		f.restart()
		f.wants("after the boot", 0, true)
	})
	t.Run("a clock that is set soon after the boot is", func(t *testing.T) {
		t.Parallel()
		f := newFixture(t)
		f.reboot(0, 0)
		f.restart()
		f.step(2 * day)
		f.wants("set", 2*day, false)
		f.wantsDoubt("set", 2*day)
		f.pass(10 * time.Minute)
		f.step(day)
		f.wants("set late", 2*day+10*time.Minute, true)
	})
	t.Run("a clock of before this software is believed when it is set", func(t *testing.T) {
		t.Parallel()
		f := &fixture{T: t, machine: newMachine(), path: filepath.Join(t.TempDir(), "clock.json")}
		f.wall = time.Unix(100, 0)
		f.restart()
		f.pass(time.Hour)
		f.step(begin.Sub(f.wall))
		f.wants("set", 0, false)
	})
	t.Run("the file is missing and the journal says when", func(t *testing.T) {
		t.Parallel()
		f := newFixture(t)
		if err := os.Remove(f.path); err != nil {
			t.Fatal(err)
		}
		f.newest = begin.Add(-2 * day)
		f.restart()
		f.wants("later than the journal", 0, false)
		f.wantsDoubt("later than the journal", 2*day)
		if err := os.Remove(f.path); err != nil {
			t.Fatal(err)
		}
		f.newest = begin.Add(2 * day)
		f.restart()
		f.wants("before the journal", 2*day, true)
	})
}

// TestDamagedFile flips every byte of the file: what is wrong is not believed.
func TestDamagedFile(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	content, err := os.ReadFile(f.path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range content[:len(content)-1] {
		for _, bit := range []byte{1, 4, 32} {
			damaged := append([]byte(nil), content...)
			damaged[i] ^= bit
			if err := os.WriteFile(f.path, damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			f.restart()
			if now := f.clock.Now(); !now.Equal(begin) {
				t.Errorf("byte %d of %q: the time is %v", i, damaged, now)
			}
		}
	}
}

func TestUnreadableJournal(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	if err := os.WriteFile(f.path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := clock.Open(clock.Config{Path: f.path, Machine: f.clocks(), Newest: func() (time.Time, error) { return time.Time{}, errors.New("away") }})
	if s := c.State(); !s.Now.Equal(begin) || s.SaveErrors != 2 {
		t.Errorf("%+v", s)
	}
}

// TestRun finds a jump although nobody asks for the time, and saves what a boot later begins with.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		var step time.Duration
		begun := time.Now()
		m := clock.Machine{BootID: "a", Read: func() (time.Time, time.Duration) { return time.Now().Add(step), time.Since(begun) }}
		c := clock.Open(clock.Config{Path: filepath.Join(dir, "clock.json"), Machine: m})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			c.Run(ctx)
		}()
		time.Sleep(3 * time.Hour)
		synctest.Wait()
		m.BootID = "b"
		again := clock.Open(clock.Config{Path: filepath.Join(dir, "clock.json"), Machine: m})
		if behind := again.Now().Sub(again.Deletion()); behind > 0 {
			t.Errorf("the file is %v old", behind)
		}
		stop()
		<-ended
	})
}
