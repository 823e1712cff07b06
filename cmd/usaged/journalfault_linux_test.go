package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"usaged/aggregator/journal"
	"usaged/aggregator/journal/faultdisk"
)

// onFaultDisk returns a daemon whose journal lies on a disk that can be made to fail.
func onFaultDisk(t *testing.T) (*instance, *faultdisk.Disk) {
	t.Helper()
	disk := faultdisk.Mount(t)
	d := newInstance(t)
	if err := os.MkdirAll(d.dir, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(disk.Dir, filepath.Join(d.dir, "journal")); err != nil {
		t.Fatal(err)
	}
	return d, disk
}

// TestReadErrorAtStart starts a daemon that was killed while a part of its journal cannot be read: it refuses, and names the
// file. When the disk reads again everything is there.
func TestReadErrorAtStart(t *testing.T) {
	t.Parallel()
	const n = 20
	d, disk := onFaultDisk(t)
	d.start()
	postUsers(d, filepath.Join(disk.Real, "00000000"), n)
	d.kill()
	d.dropDatabase()
	disk.Intercept(func(c *faultdisk.Call) syscall.Errno {
		if c.Op == faultdisk.Read && c.Name == "00000000" && c.Off+int64(len(c.Data)) > 1000 {
			return syscall.EIO
		}
		return 0
	})
	checkRefused(t, runDaemon(t, nil, d.args...), "00000000", "input/output error", "nothing was changed")
	disk.Heal()
	d.start()
	f := d.figures(7)
	same(t, "when the disk reads again", &figures{Summary: f.Summary}, &figures{Summary: firstUsers(n)})
	if all := f.Ledger.All; all.Accepted != n || all.Counted != n {
		t.Errorf("ledger %+v, want %d accepted and counted", all, n)
	}
	d.stop()
}

// TestHangingDisk lets every fsync of the journal hang: senders are answered, the daemon is not ready, and says why; reads are
// served. When the disk answers again the daemon accepts again.
func TestHangingDisk(t *testing.T) {
	t.Parallel()
	d, disk := onFaultDisk(t)
	d.start()
	d.post(`{"event_type":"a","user_id":"ann"}`)
	before := d.figures(7)
	free := make(chan struct{})
	disk.Intercept(func(c *faultdisk.Call) syscall.Errno {
		if c.Op == faultdisk.Sync {
			<-free
		}
		return 0
	})
	post := func() answer {
		return d.do(http.MethodPost, eventsPath, "producer", map[string]string{"Content-Type": "application/json"},
			[]byte(`{"id":"1","event_type":"a","user_id":"ben"}`))
	}
	if a := post(); a.status != http.StatusInternalServerError || !strings.Contains(string(a.body), "outcome_unknown") {
		t.Errorf("POST while the disk hangs: %d %s, want 500 outcome_unknown", a.status, a.body)
	}
	if a := post(); a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" {
		t.Errorf("POST while the disk hangs: %d %s, want 503 and Retry-After", a.status, a.body)
	}
	if err := d.ready(); err == nil || !strings.Contains(err.Error(), "disk") {
		t.Errorf("while the disk hangs: %v, want what is wrong", err)
	}
	same(t, "while the disk hangs", d.figures(7), before)
	disk.Heal()
	close(free)
	eventually(t, "ready again", d.ready)
	if a := post(); a.status != http.StatusAccepted {
		t.Errorf("POST when the disk answers again: %d %s", a.status, a.body)
	}
	if got := d.figures(7).Summary["a"]["ben"]; got != 1 {
		t.Errorf("ben counts %d, want 1", got)
	}
	d.stop()
}

// TestRefusedBatchNeverAppears lets calls of the journal's disk fail and kills the daemon then: what got 503 is not there after the
// next start, what got 202 is, and what got 500 outcome_unknown is there as a whole or not at all.
func TestRefusedBatchNeverAppears(t *testing.T) {
	t.Parallel()
	for name, failing := range map[string][]faultdisk.Op{
		"the sync fails":                        {faultdisk.Sync},
		"the sync fails, and the cut behind it": {faultdisk.Sync, faultdisk.Truncate},
		"the sync fails, and all changes":       {faultdisk.Sync, faultdisk.SyncDir, faultdisk.Truncate, faultdisk.Create, faultdisk.Remove, faultdisk.Rename},
		"no write is taken":                     {faultdisk.Write, faultdisk.Sync},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, disk := onFaultDisk(t)
			d.start()
			const pair = `{"event_type":"a","user_id":"%[1]s"}` + "\n" + `{"event_type":"a","user_id":"%[1]s"}`
			d.post(strings.Split(fmt.Sprintf(pair, "before"), "\n")...)
			disk.Intercept(func(c *faultdisk.Call) syscall.Errno {
				if slices.Contains(failing, c.Op) {
					return syscall.EIO
				}
				return 0
			})
			statuses := map[string]int{"before": http.StatusAccepted}
			for i := range 3 {
				user := fmt.Sprintf("user %d", i)
				a := d.do(http.MethodPost, eventsPath, "producer", map[string]string{"Content-Type": "application/x-ndjson"}, fmt.Appendf(nil, pair, user))
				statuses[user] = a.status
			}
			d.kill()
			disk.Heal()
			d.start()
			counted := d.figures(7).Summary["a"]
			for user, status := range statuses {
				allowed := map[int][]uint64{http.StatusAccepted: {2}, http.StatusServiceUnavailable: {0}, http.StatusInternalServerError: {0, 2}}[status]
				if !slices.Contains(allowed, counted[user]) {
					t.Errorf("%s got %d and counts %d, want one of %d", user, status, counted[user], allowed)
				}
			}
			if statuses["user 0"] == http.StatusAccepted {
				t.Error("the first batch was accepted although the disk failed")
			}
			d.stop()
		})
	}
}

// TestMissingSegmentAtStart deletes the oldest or the newest segment of a stopped daemon: the start is refused and names it, and
// after a repair the ledger balances: its events had been counted.
func TestMissingSegmentAtStart(t *testing.T) {
	t.Parallel()
	for name, index := range map[string]int{"the oldest": 0, "the newest": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newInstance(t)
			for range 2 { // each start begins a segment
				d.start()
				d.post(`{"event_type":"a","user_id":"ann"}`, `{"event_type":"a","user_id":"ann"}`)
				d.settle()
				d.stop()
			}
			segment := fmt.Sprintf("%08d", index)
			if err := os.Remove(filepath.Join(d.dir, "journal", segment)); err != nil {
				t.Fatal(err)
			}
			checkRefused(t, runDaemon(t, nil, d.args...), segment, "the file is missing", "usagectl journal repair")
			if _, err := journal.Repair(filepath.Join(d.dir, "journal")); err != nil {
				t.Fatal(err)
			}
			d.start()
			if all := d.settle().All; all.Accepted != 4 || all.Counted != 4 {
				t.Errorf("ledger %+v, want 4 accepted and counted", all)
			}
			d.stop()
		})
	}
}
