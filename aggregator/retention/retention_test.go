package retention_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"usaged/aggregator/retention"
)

// fixture is a policy over restarts.
type fixture struct {
	*testing.T
	path   string
	now    time.Time
	policy *retention.Policy
}

func newFixture(t *testing.T, days int) *fixture {
	f := &fixture{T: t, path: filepath.Join(t.TempDir(), "retention.json"), now: time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)}
	f.start(days)
	return f
}

func (f *fixture) start(days int) {
	f.policy = retention.Open(retention.Config{
		Path: f.path, Days: days, Most: 1000, New: f.policy == nil, Now: func() time.Time { return f.now },
	})
}

// wants checks how many days are asked for and kept, and in how long the difference is due.
func (f *fixture) wants(what string, days, kept int, due time.Duration) {
	f.Helper()
	s := f.policy.State()
	if s.Days != days || s.Kept != kept || s.Pending() != (due > 0) || s.Pending() && s.Due.Sub(f.now) != due || f.policy.Kept() != kept {
		f.Errorf("%s: %+v at %v; want %d days, %d kept, due in %v", what, s, f.now, days, kept, due)
	}
}

func TestLowering(t *testing.T) {
	t.Parallel()
	f := newFixture(t, 30)
	f.wants("at first", 30, 30, 0)
	f.start(7)
	f.wants("lowered", 7, 30, 24*time.Hour)
	f.now = f.now.Add(23 * time.Hour)
	f.start(7)
	f.wants("after a restart", 7, 30, time.Hour)
	f.now = f.now.Add(time.Hour)
	f.wants("a day later", 7, 7, 0)
	f.start(7)
	f.wants("and after a restart", 7, 7, 0)
}

func TestLoweringThatIsTakenBack(t *testing.T) {
	t.Parallel()
	f := newFixture(t, 30)
	f.start(7)
	f.now = f.now.Add(20 * time.Hour)
	f.start(30)
	f.wants("taken back", 30, 30, 0)
	f.start(7)
	f.wants("lowered again", 7, 30, 24*time.Hour)
	f.now = f.now.Add(20 * time.Hour)
	f.start(14)
	f.wants("lowered less", 14, 30, 24*time.Hour)
	f.now = f.now.Add(20 * time.Hour)
	f.start(60)
	f.wants("raised", 60, 60, 0)
}

func TestLoweringThatIsDueWhileNothingRuns(t *testing.T) {
	t.Parallel()
	f := newFixture(t, 30)
	f.start(7)
	f.now = f.now.Add(48 * time.Hour)
	f.start(7)
	f.wants("two days later", 7, 7, 0)
	f.start(30)
	f.wants("raised again", 30, 30, 0)
	f.start(7)
	f.now = f.now.Add(48 * time.Hour)
	f.start(3)
	f.wants("lowered further after the first was due", 3, 7, 24*time.Hour)
}

func TestApply(t *testing.T) {
	t.Parallel()
	f := newFixture(t, 30)
	if s, err := f.policy.Apply(); err != nil || s.Kept != 30 {
		t.Errorf("nothing to apply: %+v, %v", s, err)
	}
	f.start(7)
	if s, err := f.policy.Apply(); err != nil || s.Kept != 7 || s.Pending() {
		t.Errorf("Apply: %+v, %v", s, err)
	}
	f.start(7)
	f.wants("after a restart", 7, 7, 0)
	f.start(3)
	if err := os.RemoveAll(filepath.Dir(f.path)); err != nil {
		t.Fatal(err)
	}
	if _, err := f.policy.Apply(); err == nil {
		t.Error("Apply returned nil although the file could not be written")
	}
	f.wants("after an Apply that failed", 3, 7, 24*time.Hour)
}

// TestLostFile has the file damaged or deleted beside data. Nobody knows then how many days were kept, so that nothing is deleted for
// a day, over restarts too.
func TestLostFile(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(path string) error{
		"damaged": func(path string) error { return os.WriteFile(path, []byte(`{"kept_days":3000}`), 0o600) },
		"empty":   func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"deleted": os.Remove,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, 30)
			if err := lose(f.path); err != nil {
				t.Fatal(err)
			}
			f.start(7)
			f.wants("at the next start", 7, 1000, 24*time.Hour)
			if s := f.policy.State(); !s.Lost || f.policy.Written() != 7 || (s.Failures == 1) != (name != "deleted") {
				t.Errorf("%+v, %d days are written", s, f.policy.Written())
			}
			f.now = f.now.Add(20 * time.Hour)
			f.start(7)
			f.wants("after another", 7, 1000, 4*time.Hour)
			f.now = f.now.Add(4 * time.Hour)
			f.wants("a day later", 7, 7, 0)
			if s := f.policy.State(); s.Lost {
				t.Errorf("a day later: %+v", s)
			}
		})
	}
}

// TestRaised asks for more days than were kept: those beyond may have been deleted until somebody has looked after them.
func TestRaised(t *testing.T) {
	t.Parallel()
	f := newFixture(t, 30)
	wants := func(what string, want int) {
		t.Helper()
		if got := f.policy.Raised(); got != want {
			t.Errorf("%s: raised from %d days, want %d", what, got, want)
		}
	}
	wants("at first", 0)
	f.start(7)
	f.start(30)
	wants("taken back", 0)
	f.start(7)
	f.now = f.now.Add(48 * time.Hour)
	f.start(14)
	wants("raised", 7)
	f.start(30)
	wants("raised again", 7)
	f.start(30)
	wants("after a restart", 7)
	f.policy.Restored()
	f.start(30)
	wants("looked after", 0)
	if err := os.Remove(f.path); err != nil {
		t.Fatal(err)
	}
	f.start(30)
	wants("the file was lost", 1)
}
