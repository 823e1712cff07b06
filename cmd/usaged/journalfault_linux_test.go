package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

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
