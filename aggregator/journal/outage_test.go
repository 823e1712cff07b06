package journal_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"usaged/aggregator/journal"
)

// cannot skips a test that needs what this machine lacks. Under CI that is a failure.
func cannot(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// smallDisk mounts a file system of the given size.
func smallDisk(t *testing.T, bytes int) string {
	t.Helper()
	if runtime.GOOS != "linux" || os.Getuid() != 0 {
		cannot(t, "mounting a small tmpfs needs root on Linux: run the tests as root to include it")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", bytes)); err != nil {
		cannot(t, fmt.Sprintf("cannot mount a small tmpfs (%v): run the tests where mounting is allowed", err))
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return dir
}

// writeUntilRefused appends events until one is refused, and returns those that were accepted.
func writeUntilRefused(t *testing.T, j *journal.Journal, round int) []event {
	t.Helper()
	var accepted []event
	for i := 0; ; i++ {
		data := fmt.Sprintf("round %d: %s", round, noise(round*1000+i, 20_000+i*713%30_000))
		first, err := j.Append(batch(data))
		if err == nil {
			accepted = append(accepted, event{first, data})
			continue
		}
		if !errors.Is(err, journal.ErrUnavailable) || !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("Append on a full disk: got %v, want ErrUnavailable and ENOSPC", err)
		}
		return accepted
	}
}

// awaitReady waits until the journal accepts again.
func awaitReady(j *journal.Journal) {
	for {
		changed := j.Changed()
		if j.Ready() == nil {
			return
		}
		<-changed
	}
}

func TestFullDisk(t *testing.T) {
	t.Parallel()
	disk := smallDisk(t, 4<<20)
	dir, ballast := filepath.Join(disk, "journal"), filepath.Join(disk, "ballast")
	j := open(t, journal.Config{Dir: dir})
	var want []event
	for round := range 4 {
		if err := os.WriteFile(ballast, make([]byte, 3<<20-round*(500<<10)), 0o600); err != nil {
			t.Fatal(err)
		}
		want = append(want, writeUntilRefused(t, j, round)...)
		checkOutage(t, j, want)
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		awaitReady(j)
		data := fmt.Sprintf("after round %d", round)
		want = append(want, event{mustAppend(t, j, data), data})
		sameEvents(t, "events on a copy", copyEvents(t, dir), want)
	}
	if n := len(j.Segments()); n != 5 {
		t.Errorf("%d segments, want one more for each outage: 5", n)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j, err := journal.Open(journal.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close() // before the disk is unmounted
	events, _, gap := readAll(t, j, 0)
	sameEvents(t, "events after reopening", events, want)
	if gap != 0 {
		t.Errorf("a gap of %d", gap)
	}
}

func checkOutage(t *testing.T, j *journal.Journal, want []event) {
	t.Helper()
	if err := j.Ready(); !errors.Is(err, journal.ErrUnavailable) {
		t.Errorf("Ready: got %v, want ErrUnavailable", err)
	}
	if _, err := j.Append(batch("refused")); !errors.Is(err, journal.ErrUnavailable) {
		t.Errorf("Append in an outage: got %v, want ErrUnavailable", err)
	}
	if err := j.Note([]byte("refused")); !errors.Is(err, journal.ErrUnavailable) {
		t.Errorf("Note in an outage: got %v, want ErrUnavailable", err)
	}
	if err := j.Roll(); !errors.Is(err, journal.ErrUnavailable) {
		t.Errorf("Roll in an outage: got %v, want ErrUnavailable", err)
	}
	events, notes, gap := readAll(t, j, 0)
	sameEvents(t, "events in an outage", events, want)
	if len(notes) > 0 || gap > 0 {
		t.Errorf("in an outage: notes %v, a gap of %d", notes, gap)
	}
}

// copyEvents opens a copy, as if the machine had crashed now.
func copyEvents(t *testing.T, dir string) []event {
	t.Helper()
	to := t.TempDir()
	readFiles(t, dir).write(t, to)
	events, _, _ := readAll(t, open(t, journal.Config{Dir: to}), 0)
	return events
}

func TestCloseOnAFullDisk(t *testing.T) {
	t.Parallel()
	disk := smallDisk(t, 1<<20)
	dir := filepath.Join(disk, "journal")
	j := open(t, journal.Config{Dir: dir})
	want := writeUntilRefused(t, j, 1)
	if err := j.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	sameEvents(t, "events", copyEvents(t, dir), want)
}

// The child process of TestFailingSync appends in the directory that this variable names, and prints what became of
// each event.
const childDirEnv = "JOURNAL_TEST_CHILD_DIR"

const childSenders, childEvents = 4, 25

func childMain() int {
	j, err := journal.Open(journal.Config{Dir: os.Getenv(childDirEnv)})
	if err != nil {
		fmt.Printf("open %q\n", err) // an error may have several lines
		return 0
	}
	var wg sync.WaitGroup
	for s := range childSenders {
		wg.Go(func() {
			for i := range childEvents {
				data := fmt.Sprintf("%d/%d", s, i)
				first, err := j.Append(batch(data))
				switch {
				case err == nil:
					fmt.Println("accepted", first, data)
				case errors.Is(err, journal.ErrUnavailable) && errors.Is(err, syscall.EIO):
					fmt.Println("refused", 0, data)
				case errors.Is(err, journal.ErrUnknown):
					fmt.Println("unknown", 0, data)
				default:
					fmt.Printf("wrong 0 %q\n", err)
				}
			}
		})
	}
	wg.Wait()
	if os.Getenv(childStaysDownEnv) != "" {
		return 0
	}
	// strace counts for each thread of its own, so that the outage ends and another may begin: as many as there are threads.
	for {
		awaitReady(j)
		first, err := j.Append(batch("last"))
		if err == nil {
			fmt.Println("accepted", first, "last")
			return 0 // without Close: a crash
		}
		if !errors.Is(err, journal.ErrUnavailable) {
			fmt.Printf("wrong 0 %q\n", err)
			return 0
		}
		fmt.Println("refused", 0, "last")
	}
}

// childStaysDownEnv tells the child not to wait for the end of the outage.
const childStaysDownEnv = "JOURNAL_TEST_CHILD_STAYS_DOWN"

func TestFailingSync(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("strace"); err != nil {
		cannot(t, "strace is not installed: install it to include the tests of failing fsync")
	}
	refused := 0
	for _, when := range []string{"1", "2", "3", "5", "8", "13", "21", "6..8"} {
		refused += failSync(t, when, nil)
	}
	if refused == 0 {
		t.Error("no fsync failed while events were written")
	}
	// The disk never comes back: even the cut cannot be synced. The senders are answered all the same, those of the batch that
	// could not be cut off with ErrUnknown.
	failSync(t, "9+", []string{childStaysDownEnv + "=1"})
}

// failSync runs the child with a failing fsync, and returns how many events it was refused.
func failSync(t *testing.T, when string, env []string) (refused int) {
	t.Helper()
	dir := t.TempDir()
	// -race and a busy machine make the threads many, and strace counts per thread.
	cmd := exec.CommandContext(t.Context(), "strace", "-f", "-qq", "-o", filepath.Join(t.TempDir(), "trace"), "-e", "trace=fsync",
		"-e", "inject=fsync:error=EIO:when="+when, os.Args[0])
	cmd.Env = append(append(os.Environ(), childDirEnv+"="+dir, "GOMAXPROCS=1"), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("when=%s: %v\n%s", when, err, out)
	}
	accepted, unknown := map[uint64]string{}, map[string]bool{}
	lines := bufio.NewScanner(strings.NewReader(string(out)))
	for lines.Scan() {
		var what, data string
		var first uint64
		if strings.HasPrefix(lines.Text(), "open ") {
			continue
		}
		if _, err := fmt.Sscan(lines.Text(), &what, &first, &data); err != nil || what == "wrong" {
			t.Errorf("when=%s: the child printed %q", when, lines.Text())
			continue
		}
		if what == "refused" {
			refused++
			continue
		}
		if what == "unknown" {
			unknown[data] = true
			continue
		}
		accepted[first] = data
	}
	events, _, gap := readAll(t, open(t, journal.Config{Dir: dir}), 0)
	for _, e := range events {
		if unknown[e.data] && accepted[e.seq] == "" {
			accepted[e.seq] = e.data // it may be there
		}
		if accepted[e.seq] != e.data {
			t.Errorf("when=%s: event %d is %q, the child was told that it is %q", when, e.seq, e.data, accepted[e.seq])
		}
	}
	if len(events) != len(accepted) || gap != 0 {
		t.Errorf("when=%s: %d events and a gap of %d, want the %d accepted", when, len(events), gap, len(accepted))
	}
	return refused
}
