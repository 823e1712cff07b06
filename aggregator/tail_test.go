package aggregator_test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"usaged/aggregator/tail"
)

// tailed reads a tail up to its end, or n events, and returns the users, which name the events, and the last cursor.
func tailed(t testing.TB, reader *tail.Reader, n int) (users []string, cursor tail.Cursor) {
	t.Helper()
	for len(users) != n {
		err := reader.Next(func(e *tail.Event) bool {
			users = append(users, string(e.UserID))
			return len(users) != n
		})
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("after %d events: %v", len(users), err)
		}
	}
	return users, reader.Cursor()
}

func tailAfter(t testing.TB, d *daemon, c tail.Cursor) *tail.Reader {
	t.Helper()
	reader, err := d.agg.TailAfter(c)
	if err != nil {
		t.Fatalf("tail after %s: %v", c, err)
	}
	return reader
}

func tailSince(t testing.TB, d *daemon, since time.Time) *tail.Reader {
	t.Helper()
	reader, err := d.agg.TailSince(since)
	if err != nil {
		t.Fatal(err)
	}
	return reader
}

// named are events that their users tell apart.
func named(from, n int) (list []sent, users []string) {
	for i := range n {
		user := fmt.Sprintf("u%06d", from+i)
		list, users = append(list, sent{UserID: user, Type: "chat", Metadata: map[string]string{"pad": strings.Repeat(user, 40)}}), append(users, user)
	}
	return list, users
}

// TestTailIsExact reads with tails that are closed and opened again behind any event, while segments end and the daemon
// restarts: what they have read together is what was accepted, in that order.
func TestTailIsExact(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 1))
	d := openDaemon(t, t.TempDir(), newFaulty(1))
	l := newLedger()
	var want, got []string
	reader := tailSince(t, d, time.Time{})
	cursor := reader.Cursor()
	for len(want) < 6_000 {
		list, users := named(len(want), 1+rnd.IntN(60))
		d.accept(l, list...)
		want = append(want, users...)
		switch rnd.IntN(10) {
		case 0:
			d.close()
			d.open()
			reader = tailAfter(t, d, cursor)
		case 1:
			if err := reader.Close(); err != nil {
				t.Fatal(err)
			}
			again, err := tail.ParseCursor(cursor.String())
			if err != nil {
				t.Fatal(err)
			}
			reader = tailAfter(t, d, again)
		}
		var users2 []string
		users2, cursor = tailed(t, reader, 1+rnd.IntN(60))
		got = append(got, users2...)
	}
	rest, _ := tailed(t, reader, -1)
	if got = append(got, rest...); !slices.Equal(got, want) {
		t.Errorf("%d events were read, want %d", len(got), len(want))
	}
	if n := segments(t, d.cfg.Dir); n < 3 {
		t.Errorf("%d segments, want some that end in between", n)
	}
	d.close()
}

// TestTailCursorSurvivesANewProducerID loses the journal's newest part to a restored backup: the id under which events are
// counted changes, the cursors of before it stay good, and so do those of what was lost, since its numbers are not given out again.
func TestTailCursorSurvivesANewProducerID(t *testing.T) {
	dir := memoryDir(t)
	synctest.Test(t, func(t *testing.T) {
		st, l := newFaulty(1), newLedger()
		d := openDaemon(t, dir, st)
		list, users := named(0, 10)
		d.accept(l, list...)
		settle()
		reader := tailSince(t, d, time.Time{})
		_, kept := tailed(t, reader, 5)
		d.close()
		backup := filepath.Join(dir, "backup")
		if err := os.CopyFS(backup, os.DirFS(filepath.Join(dir, "journal"))); err != nil {
			t.Fatal(err)
		}
		d.open()
		lost, _ := named(10, 10)
		d.accept(l, lost...)
		settle()
		_, gone := tailed(t, tailAfter(t, d, kept), 10)
		d.close()
		if err := os.RemoveAll(filepath.Join(dir, "journal")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(backup, filepath.Join(dir, "journal")); err != nil {
			t.Fatal(err)
		}
		d.open()
		settle()
		other, otherUsers := named(30, 20)
		d.accept(l, other...)
		if got, _ := tailed(t, tailAfter(t, d, gone), -1); !slices.Equal(got, otherUsers) {
			t.Errorf("after an event that was lost: %v, want %v", got, otherUsers)
		}
		if acc, err := d.agg.Ledger(t.Context()); err != nil || len(acc.Producers) != 2 {
			t.Errorf("producers %v, %v; want a second one", acc, err)
		}
		if got, _ := tailed(t, tailAfter(t, d, kept), -1); !slices.Equal(got, append(users[5:], otherUsers...)) {
			t.Errorf("behind the cursor: %v", got)
		}
		d.close()
	})
}

func TestTailRefusesForeignCursors(t *testing.T) {
	t.Parallel()
	d, other := openDaemon(t, t.TempDir(), newFaulty(1)), openDaemon(t, t.TempDir(), newFaulty(1))
	list, _ := named(0, 3)
	d.accept(newLedger(), list...)
	_, cursor := tailed(t, tailSince(t, d, time.Time{}), 2)
	if _, err := other.agg.TailAfter(cursor); !errors.Is(err, tail.ErrForeignCursor) {
		t.Errorf("%v, want ErrForeignCursor", err)
	}
	d.close()
	other.close()
}

// TestTailIsNoBurden holds that a tail that nobody reads keeps no segment, and that it can read no further than what was open,
// and then says so; so does a cursor.
func TestTailIsNoBurden(t *testing.T) {
	dir := memoryDir(t)
	synctest.Test(t, func(t *testing.T) {
		d := openDaemon(t, dir, newFaulty(1))
		d.cfg.RetentionBytes = 200 << 10
		d.close()
		d.open()
		l, rnd := newLedger(), rand.New(rand.NewPCG(1, 2))
		d.accept(l, sent{UserID: "first", Type: "chat"})
		slow := tailSince(t, d, time.Time{})
		_, cursor := tailed(t, slow, 1)
		for range 100 {
			d.accept(l, sent{UserID: "ann", Type: "chat", Metadata: map[string]string{"x": noise(rnd, 6000)}})
		}
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if got := segments(t, dir); got > 5 {
			t.Errorf("%d segments are kept for a tail", got)
		}
		read, err := 0, error(nil)
		for err == nil {
			err = slow.Next(func(*tail.Event) bool { read++; return true })
		}
		if !errors.Is(err, tail.ErrCursorGone) || read > 20 {
			t.Errorf("the slow tail read %d events, then %v; want those of one segment, then ErrCursorGone", read, err)
		}
		if _, err := d.agg.TailAfter(cursor); !errors.Is(err, tail.ErrCursorGone) {
			t.Errorf("cursor: %v, want ErrCursorGone", err)
		}
		if got, _ := tailed(t, tailSince(t, d, time.Time{}), -1); len(got) == 0 || len(got) > 60 {
			t.Errorf("%d events from the oldest kept", len(got))
		}
		d.close()
	})
}

// TestTailSince compares what it begins with with the times of acceptance.
func TestTailSince(t *testing.T) {
	dir := memoryDir(t)
	synctest.Test(t, func(t *testing.T) {
		d := openDaemon(t, dir, newFaulty(1))
		l, rnd := newLedger(), rand.New(rand.NewPCG(1, 3))
		var users []string
		var times []time.Time
		for len(users) < 500 {
			list, more := named(len(users), 7)
			list[0].Metadata["x"] = noise(rnd, 4000)
			times = append(times, slices.Repeat([]time.Time{time.Now()}, 7)...)
			users = append(users, more...)
			d.accept(l, list...)
			time.Sleep(20 * time.Second)
		}
		if n := segments(t, dir); n < 2 {
			t.Errorf("%d segments, want several", n)
		}
		for i := 0; i < len(users); i += 7 {
			for _, shift := range []time.Duration{0, time.Millisecond, -10 * time.Second} {
				want := i
				if shift > 0 {
					want = i + 7
				}
				reader := tailSince(t, d, times[i].Add(shift))
				if got, _ := tailed(t, reader, -1); !slices.Equal(got, users[min(want, len(users)):]) {
					t.Fatalf("since event %d%+v: %d events, want %d", i, shift, len(got), len(users)-want)
				}
				if err := reader.Close(); err != nil {
					t.Fatal(err)
				}
			}
		}
		now := tailSince(t, d, time.Now())
		if _, cursor := tailed(t, now, -1); now.Seq() != now.End() {
			t.Errorf("a tail since now is at %s, the end is %d", cursor, now.End())
		}
		list, more := named(1000, 2)
		d.accept(l, list...)
		if got, _ := tailed(t, now, -1); !slices.Equal(got, more) {
			t.Errorf("since now: %v", got)
		}
		d.close()
	})
}

// TestTailsRunBesideAppends follows with several tails while events are accepted.
func TestTailsRunBesideAppends(t *testing.T) {
	t.Parallel()
	d := openDaemon(t, t.TempDir(), newFaulty(1))
	const total = 3_000
	var group sync.WaitGroup
	for range 4 {
		reader := tailSince(t, d, time.Time{})
		group.Go(func() {
			next := 0
			for next < total {
				changed := reader.Changed()
				err := reader.Next(func(e *tail.Event) bool {
					if want := fmt.Sprintf("u%06d", next); string(e.UserID) != want {
						t.Errorf("event %d is %s", next, e.UserID)
					}
					next++
					return true
				})
				if errors.Is(err, io.EOF) {
					<-changed
				} else if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	l := newLedger()
	for n := 0; n < total; n += 10 {
		list, _ := named(n, 10)
		d.accept(l, list...)
	}
	group.Wait()
	d.close()
}

// TestTailCountsWhatIsDamaged reads over a repaired gap.
func TestTailCountsWhatIsDamaged(t *testing.T) {
	t.Parallel()
	d := openDaemon(t, t.TempDir(), newFaulty(1))
	l := newLedger()
	d.accept(l, sent{UserID: "one", Type: "chat"})
	d.accept(l, sent{UserID: "lost", Type: "chat"}, sent{UserID: "lost", Type: "chat"})
	d.accept(l, sent{UserID: "four", Type: "chat"})
	_, cursor := tailed(t, tailSince(t, d, time.Time{}), 2)
	d.close()
	journals := filepath.Join(d.cfg.Dir, "journal")
	damage(t, filepath.Join(journals, "00000000"))
	repair(t, journals)
	d.open()
	reader := tailSince(t, d, time.Time{})
	if got, _ := tailed(t, reader, -1); !slices.Equal(got, []string{"one", "four"}) || reader.Missing() != 2 {
		t.Errorf("%v, %d missing; want one, four and 2", got, reader.Missing())
	}
	reader = tailAfter(t, d, cursor) // in the middle of the gap
	if got, _ := tailed(t, reader, -1); !slices.Equal(got, []string{"four"}) || reader.Missing() != 1 {
		t.Errorf("%v, %d missing; want four and 1", got, reader.Missing())
	}
	d.close()
}
