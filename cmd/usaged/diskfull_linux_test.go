package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// smallDisk mounts a tmpfs and returns where.
func smallDisk(t testing.TB, bytes int) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("usaged-test", dir, "tmpfs", 0, fmt.Sprintf("size=%d", bytes)); err != nil {
		missing(t, "mount a small tmpfs: %v: run as root", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return dir
}

// fill writes a file until the disk is full.
func fill(t testing.TB, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil && !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	defer f.Close()
	for _, size := range []int{1 << 20, 4 << 10, 1} {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
}

// tries posts batches of one user each, and remembers what became of them.
type tries struct {
	d                 *instance
	next              int
	accepted, refused []string
}

const triedEvents = 50

// post sends a batch with a user of its own and returns whether it was accepted. A refusal must tell the sender to come back.
func (tr *tries) post() bool {
	tr.d.tb.Helper()
	user := fmt.Sprintf("user %d", tr.next)
	tr.next++
	var lines []string
	for i := range triedEvents {
		lines = append(lines, fmt.Sprintf(`{"id":"%d","event_type":"a","user_id":%q,"metadata":{"pad":"%x"}}`, i, user, noise(tr.next*triedEvents+i)))
	}
	a := tr.d.do(http.MethodPost, eventsPath, "producer", map[string]string{"Content-Type": "application/x-ndjson"},
		[]byte(strings.Join(lines, "\n")))
	if a.status == http.StatusAccepted {
		tr.accepted = append(tr.accepted, user)
		return true
	}
	tr.refused = append(tr.refused, user)
	if a.status != http.StatusServiceUnavailable || a.header.Get("Content-Type") != "application/problem+json" || a.header.Get("Retry-After") == "" {
		tr.d.tb.Errorf("POST on a full disk: %d, %v, %s; want 503, a problem and Retry-After", a.status, a.header, a.body)
	}
	var problem struct {
		Status int
		Code   string
	}
	if err := json.Unmarshal(a.body, &problem); err != nil || problem.Status != a.status || problem.Code != "unavailable" {
		tr.d.tb.Errorf("POST on a full disk: %s, %v; want the code unavailable", a.body, err)
	}
	return false
}

// noise is text that doesn't compress.
func noise(n int) []byte {
	out := make([]byte, 100)
	x := uint64(n)
	for i := range out {
		x = x*6364136223846793005 + 1442695040888963407
		out[i] = byte(x >> 56)
	}
	return out
}

// judge expects everything accepted once, and nothing that was refused.
func (tr *tries) judge(what string) *figures {
	tr.d.tb.Helper()
	want := map[string]uint64{}
	for _, user := range tr.accepted {
		want[user] = triedEvents
	}
	f := tr.d.figures(7)
	same(tr.d.tb, what, &figures{Summary: f.Summary}, &figures{Summary: map[string]map[string]uint64{"a": want}})
	if n := uint64(len(tr.accepted) * triedEvents); f.Ledger.All.Accepted != n || f.Ledger.All.Counted != n || f.Counters["a"] != n {
		tr.d.tb.Errorf("%s: ledger %+v, counters %v, want %d", what, f.Ledger.All, f.Counters, n)
	}
	return f
}

func (d *instance) ready() error {
	a := d.do(http.MethodGet, "/-/ready", "", nil, nil)
	if a.status != http.StatusOK {
		return fmt.Errorf("/-/ready: %d: %s", a.status, a.body)
	}
	return nil
}

// TestDiskFull fills the disk under a daemon, and makes room again: by itself it goes on, with all that it accepted and
// nothing that it refused, also when it is killed meanwhile.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	disk := smallDisk(t, 8<<20)
	ballast := filepath.Join(disk, "ballast")
	d := instanceIn(t, filepath.Join(disk, "data"))
	d.start()
	tr := &tries{d: d}
	for tr.post() { // until the journal and the database have filled it
		if tr.next > 5000 {
			t.Fatal("the disk does not fill")
		}
	}
	for round := range 2 {
		fill(t, ballast)
		eventually(t, "refusal", func() error {
			fill(t, ballast) // what the daemon gave back too
			if tr.post() {
				return errors.New("accepted")
			}
			return nil
		})
		if err := d.ready(); err == nil {
			t.Error("/-/ready says 200 on a full disk")
		}
		if a := d.do(http.MethodGet, "/-/healthy", "", nil, nil); a.status != http.StatusOK {
			t.Errorf("/-/healthy: %d on a full disk, want 200", a.status)
		}
		if round == 1 {
			d.kill()
		}
		if err := os.Truncate(ballast, 0); err != nil {
			t.Fatal(err)
		}
		if round == 1 {
			if err := syscall.Mount("", disk, "", syscall.MS_REMOUNT, "size=32m"); err != nil {
				t.Fatal(err)
			}
			d.start()
		} else if err := syscall.Mount("", disk, "", syscall.MS_REMOUNT, "size=16m"); err != nil {
			t.Fatal(err)
		}
		eventually(t, "ready once there is room", d.ready)
		for range 3 {
			if !tr.post() {
				t.Error("refused although there is room")
			}
		}
		tr.judge(fmt.Sprintf("round %d, room again", round))
	}
	if len(tr.refused) == 0 {
		t.Error("nothing was refused")
	}
	want := d.figures(7)
	d.stop()
	d.dropDatabase()
	d.start()
	same(t, "rebuilt", tr.judge("rebuilt"), want)
	d.stop()
}

var acceptingURL = regexp.MustCompile(`msg="accepting requests" url=(\S+)`)

// awaitRequests waits until a launched daemon accepts requests, also where it cannot write its URL.
func (d *instance) awaitRequests() {
	d.tb.Helper()
	eventually(d.tb, "start", func() error {
		urls := acceptingURL.FindAllStringSubmatch(d.log.String(), -1)
		if len(urls) < 2 { // the first is of the start before
			return errors.New("not in the log")
		}
		d.url = urls[len(urls)-1][1]
		return nil
	})
}

// TestStartOnAFullDisk kills the daemon and starts it on a disk that is full: what was counted can be read, events are refused, and
// as soon as there is room they are accepted, without a restart.
func TestStartOnAFullDisk(t *testing.T) {
	t.Parallel()
	disk := smallDisk(t, 16<<20)
	ballast := filepath.Join(disk, "ballast")
	d := instanceIn(t, filepath.Join(disk, "data"))
	d.start()
	tr := &tries{d: d}
	for range 5 {
		tr.post()
	}
	before := tr.judge("before").Summary
	d.kill()
	fill(t, ballast)
	d.launch()
	d.awaitRequests()
	if got := d.summary(7); !reflect.DeepEqual(got, before) {
		t.Errorf("on a full disk the summary is %v, want %v", got, before)
	}
	eventually(t, "refusal", func() error {
		fill(t, ballast) // what the daemon gave back too
		if tr.post() {
			return errors.New("accepted")
		}
		return nil
	})
	if err := d.ready(); err == nil {
		t.Error("/-/ready says 200 on a full disk")
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	eventually(t, "ready once there is room", d.ready)
	eventually(t, "the URL file once there is room", func() error {
		_, err := os.Stat(d.urlFile())
		return err
	})
	if !tr.post() {
		t.Error("refused although there is room")
	}
	tr.judge("room again")
	d.stop()
}
