package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCacheLeavesRoom stops a daemon on a disk that is nearly full: the cache's file takes no room that the journal may need,
// and nobody misses it.
func TestCacheLeavesRoom(t *testing.T) {
	t.Parallel()
	disk := smallDisk(t, 16<<20)
	d := instanceIn(t, filepath.Join(disk, "data"), "--prometheus.enabled=false")
	d.start()
	lines := busyWeeks()
	for i := range 3000 {
		lines = append(lines, fmt.Sprintf(`{"event_type":"a","user_id":"%200d"}`, i))
	}
	d.post(lines...)
	want := d.warmed()
	ballast := filepath.Join(disk, "ballast")
	fill(t, ballast)
	info, err := os.Stat(ballast)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(ballast, info.Size()-2<<20); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(d.dir, "days.cache")
	before := mustRead(t, file)
	d.stop()
	if got := mustRead(t, file); string(got) != string(before) {
		t.Errorf("the file has %d bytes, and had %d", len(got), len(before))
	}
	if log := d.log.String(); !strings.Contains(log, "cache could not be saved") {
		t.Errorf("the log has no word of the file: %s", log)
	}
	d.start()
	if got := d.answers(); got != want {
		t.Errorf("after a restart:\n%.2000s\nbefore:\n%.2000s", got, want)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	d.warmed()
	d.stop()
	if got := mustRead(t, file); len(got) < 3000*200 {
		t.Errorf("once there is room the file has %d bytes", len(got))
	}
}
