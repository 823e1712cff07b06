package docs_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestCurlLoop runs the loop of siem.md beside a daemon, stops it in between and starts it again: what it has written is the
// journal, in its order.
func TestCurlLoop(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"sh", "curl"} {
		if _, err := exec.LookPath(program); err != nil {
			need(t, program+" is not installed: install it to run the loop")
		}
	}
	var loop string
	for _, block := range blocks(t, "siem.md", "sh") {
		if strings.HasPrefix(block, "#!/bin/sh\n") {
			loop = block
		}
	}
	dir := t.TempDir()
	url := startDaemon(t, dir)
	loop = strings.NewReplacer("http://127.0.0.1:8080", url, "/var/lib/usaged", filepath.Join(dir, "data"),
		"/var/lib/usage-siem", dir, "sleep 5", "sleep 0.05", "limit=10000", "limit=7").Replace(loop)
	script := filepath.Join(dir, "loop")
	if err := os.WriteFile(script, []byte(loop), 0o700); err != nil {
		t.Fatal(err)
	}
	sent := 0
	for range 4 {
		cmd := exec.Command("sh", script)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			var events strings.Builder
			for range 10 {
				events.WriteString(`{"event_type":"a","user_id":"ann"}` + "\n")
			}
			send := exec.Command(bin(t, "usagectl"), "--data.dir="+filepath.Join(dir, "data"), "send", "-")
			send.Stdin = strings.NewReader(events.String())
			if out, err := send.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			sent += 10
		}
		waitForLines(t, filepath.Join(dir, "events.ndjson"), sent, &stderr)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed
	}
	journal, err := exec.Command(bin(t, "usagectl"), "journal", "cat", filepath.Join(dir, "data")).Output()
	if err != nil {
		t.Fatal(err)
	}
	want, got := eventIDs(string(journal)), eventIDs(read(t, filepath.Join(dir, "events.ndjson")))
	if strings.Join(got, " ") != strings.Join(want, " ") || len(got) != sent {
		t.Errorf("the loop has written %d events, the journal has %d, or another order", len(got), len(want))
	}
}

func eventIDs(lines string) (ids []string) {
	for _, m := range regexp.MustCompile(`"id":"([^"]+)"`).FindAllStringSubmatch(lines, -1) {
		ids = append(ids, m[1])
	}
	return ids
}

// waitForLines waits until the loop has written so many lines and sleeps behind the cursor of the last.
func waitForLines(t *testing.T, path string, n int, stderr *bytes.Buffer) {
	t.Helper()
	for range 600 {
		data, err := os.ReadFile(path)
		cursor, cursorErr := os.ReadFile(filepath.Join(filepath.Dir(path), "cursor"))
		if err == nil && cursorErr == nil && bytes.Count(data, []byte("\n")) >= n &&
			bytes.HasPrefix(data[lastCursor(data):], bytes.TrimSpace(cursor)) {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("%s has no %d events behind its cursor: %s", path, n, stderr)
}

// lastCursor is where the text of the last line's cursor begins.
func lastCursor(data []byte) int {
	const key = `"cursor":"`
	return bytes.LastIndex(data, []byte(key)) + len(key)
}
