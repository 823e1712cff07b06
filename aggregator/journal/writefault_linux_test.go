package journal_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"usaged/aggregator/journal"
	"usaged/aggregator/journal/faultdisk"
)

// changes reports whether a call changes something.
func changes(op faultdisk.Op) bool { return !asks(op) }

// shortly is a patience that a test can wait for.
const shortly = 200 * time.Millisecond

// told is what Append said of each entry.
type told struct {
	accepted         []event
	refused, unknown map[string]bool
}

// tell appends entries until the journal refuses what it has not even begun, at most 8, and notes what it says of each.
func tell(t *testing.T, j *journal.Journal) told {
	t.Helper()
	all := told{refused: map[string]bool{}, unknown: map[string]bool{}}
	for i := range 8 {
		data := fmt.Sprintf("%d %s", i, noise(i, 3_000))
		first, err := j.Append(batch(data))
		switch {
		case err == nil:
			all.accepted = append(all.accepted, event{first, data})
		case errors.Is(err, journal.ErrUnknown):
			all.unknown[data] = true
		case errors.Is(err, journal.ErrUnavailable):
			all.refused[data] = true
		default:
			t.Errorf("Append: %v, want ErrUnavailable or ErrUnknown", err)
		}
		if i == 4 {
			_ = j.Roll() // the calls of a roll may fail too, and then the next Append says so
		}
	}
	return all
}

// judge opens what is on the disk as after a crash: what was accepted is there once and in order, what was refused is not, and
// of the rest only what nobody knows.
func (a told) judge(t *testing.T, what string, d *faultdisk.Disk) {
	t.Helper()
	to := t.TempDir()
	readFiles(t, filepath.Join(d.Real, "journal")).write(t, to)
	j, err := journal.Open(journal.Config{Dir: to})
	if err != nil {
		t.Fatalf("%s: Open after a crash: %v", what, err)
	}
	defer j.Close()
	events, _, gap := readAll(t, j, 0)
	var known []event
	for _, e := range events {
		if a.refused[e.data] {
			t.Errorf("%s: event %d was refused and is there", what, e.seq)
		}
		if !a.unknown[e.data] {
			known = append(known, e)
		}
	}
	sameEvents(t, what, known, a.accepted)
	if gap > 0 {
		t.Errorf("%s: a gap of %d", what, gap)
	}
}

func TestFailingWrites(t *testing.T) {
	t.Parallel()
	for name, lasts := range map[string]bool{"one call fails": false, "every call from one on fails": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := faultdisk.Mount(t)
			refused, unknown := 0, 0
			for n := int64(0); ; n++ {
				what := fmt.Sprintf("call %d", n)
				if err := os.RemoveAll(filepath.Join(d.Real, "journal")); err != nil {
					t.Fatal(err)
				}
				j, err := journal.Open(journal.Config{Dir: filepath.Join(d.Dir, "journal"), Patience: shortly})
				if err != nil {
					t.Fatal(err)
				}
				var calls atomic.Int64
				d.Intercept(func(c *faultdisk.Call) syscall.Errno {
					if !changes(c.Op) {
						return 0
					}
					if k := calls.Add(1); k == n+1 || lasts && k > n {
						return syscall.EIO
					}
					return 0
				})
				all := tell(t, j)
				d.Intercept(nil)
				all.judge(t, what, d)
				refused, unknown = refused+len(all.refused), unknown+len(all.unknown)
				awaitReady(j)
				last := event{mustAppend(t, j, "last"), "last"}
				all.accepted = append(all.accepted, last)
				if err := j.Close(); err != nil {
					t.Errorf("%s: Close: %v", what, err)
				}
				all.judge(t, what+", healed", d)
				if calls.Load() <= n {
					break
				}
			}
			if refused == 0 || lasts && unknown == 0 {
				t.Errorf("%d refused, %d unknown", refused, unknown)
			}
		})
	}
}

// hang lets calls of one kind hang until release is called, and closes met at the first.
func hang(d *faultdisk.Disk, op faultdisk.Op) (met <-chan struct{}, release func()) {
	begun, free := make(chan struct{}), make(chan struct{})
	var once atomic.Bool
	d.Intercept(func(c *faultdisk.Call) syscall.Errno {
		if c.Op == op {
			if once.CompareAndSwap(false, true) {
				close(begun)
			}
			<-free
		}
		return 0
	})
	return begun, func() { close(free) }
}

func TestHangingDisk(t *testing.T) {
	t.Parallel()
	for _, op := range []faultdisk.Op{faultdisk.Sync, faultdisk.Write} {
		t.Run(string(op), func(t *testing.T) {
			t.Parallel()
			d := faultdisk.Mount(t)
			j := open(t, journal.Config{Dir: filepath.Join(d.Dir, "journal"), Patience: shortly})
			first := event{mustAppend(t, j, "first"), "first"}
			met, release := hang(d, op)
			answers := make(chan error)
			go func() {
				_, err := j.Append(batch("hangs"))
				answers <- err
			}()
			<-met
			go func() {
				_, err := j.Append(batch("waits"))
				answers <- err
			}()
			var unknown, refused int
			for range 2 {
				switch err := <-answers; {
				case errors.Is(err, journal.ErrUnknown):
					unknown++
				case errors.Is(err, journal.ErrUnavailable):
					refused++
				default:
					t.Errorf("Append on a disk that hangs: %v", err)
				}
			}
			if unknown != 1 || refused != 1 {
				t.Errorf("%d unknown and %d refused, want 1 of each", unknown, refused)
			}
			if err := j.Ready(); !errors.Is(err, journal.ErrUnavailable) || !strings.Contains(err.Error(), "the disk has not answered") {
				t.Errorf("Ready: %v, want ErrUnavailable and the reason", err)
			}
			events, _, _ := readAll(t, j, 0)
			sameEvents(t, "events while it hangs", events, []event{first})
			release()
			awaitReady(j)
			mustAppend(t, j, "last")
			events, _, gap := readAll(t, j, 0)
			sameEvents(t, "events", events, []event{first, {2, "hangs"}, {3, "last"}})
			if gap > 0 {
				t.Errorf("a gap of %d", gap)
			}
		})
	}
}

func TestCloseOnAHangingDisk(t *testing.T) {
	t.Parallel()
	d := faultdisk.Mount(t)
	j, err := journal.Open(journal.Config{Dir: filepath.Join(d.Dir, "journal"), Patience: shortly})
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, j, "first")
	_, release := hang(d, faultdisk.Sync)
	if _, err := j.Append(batch("hangs")); !errors.Is(err, journal.ErrUnknown) {
		t.Errorf("Append: %v, want ErrUnknown", err)
	}
	if err := j.Close(); err == nil || !strings.Contains(err.Error(), "has not answered") {
		t.Errorf("Close: %v, want an error that says that the disk has not answered", err)
	}
	release()
}

func TestOpenOnADiskThatTakesNoWrites(t *testing.T) {
	t.Parallel()
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EROFS, syscall.EIO} {
		t.Run(errno.Error(), func(t *testing.T) {
			t.Parallel()
			d := faultdisk.Mount(t)
			all := tornJournal(t, d)
			torn := readFiles(t, d.Real)
			d.Intercept(func(c *faultdisk.Call) syscall.Errno {
				if changes(c.Op) {
					return errno
				}
				return 0
			})
			j := open(t, journal.Config{Dir: d.Dir})
			if _, err := j.Append(batch("refused")); !errors.Is(err, journal.ErrUnavailable) || !errors.Is(err, errno) {
				t.Errorf("Append: got %v, want ErrUnavailable and %v", err, errno)
			}
			if err := j.Ready(); !errors.Is(err, errno) {
				t.Errorf("Ready: got %v, want %v", err, errno)
			}
			events, _, _ := readAll(t, j, 0)
			sameEvents(t, "events", events, all)
			sameFiles(t, "Open", 0, d.Real, torn)
			d.Heal()
			awaitReady(j)
			data := "accepted"
			all = append(all, event{mustAppend(t, j, data), data})
			events, _, gap := readAll(t, j, 0)
			sameEvents(t, "events with the disk well again", events, all)
			if gap > 0 {
				t.Errorf("a gap of %d", gap)
			}
		})
	}
}

func TestNothingIsAcceptedIntoADeletedJournal(t *testing.T) {
	t.Parallel()
	for name, loses := range map[string]func(dir string) error{
		"the directory is deleted": os.RemoveAll,
		"the segment is deleted":   func(dir string) error { return os.Remove(filepath.Join(dir, segmentName(0))) },
		"the directory is moved":   func(dir string) error { return os.Rename(dir, dir+".moved") },
		"an empty directory takes its place": func(dir string) error {
			return errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o777))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "journal")
			j := open(t, journal.Config{Dir: dir, Patience: shortly})
			mustAppend(t, j, "first")
			if err := loses(dir); err != nil {
				t.Fatal(err)
			}
			if first, err := j.Append(batch("second")); !errors.Is(err, journal.ErrUnknown) && !errors.Is(err, journal.ErrUnavailable) {
				t.Errorf("Append: got %d, %v, want an error", first, err)
			}
			if _, err := j.Append(batch("third")); !errors.Is(err, journal.ErrUnavailable) {
				t.Errorf("Append: got %v, want ErrUnavailable", err)
			}
			if err := j.Ready(); err == nil || !strings.Contains(err.Error(), "deleted or moved") {
				t.Errorf("Ready: got %v, want what has happened", err)
			}
		})
	}
}
