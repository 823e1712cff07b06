package docs_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"usaged/tools/waittest"
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
			sendTo(t, filepath.Join(dir, "data"))
			sent += 10
		}
		waitForLines(t, filepath.Join(dir, "events.ndjson"), sent, "cursor", &stderr)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed
	}
	want, got := journalIDs(t, filepath.Join(dir, "data")), eventIDs(read(t, filepath.Join(dir, "events.ndjson")))
	if strings.Join(got, " ") != strings.Join(want, " ") || len(got) != sent {
		t.Errorf("the loop has written %d events, the journal has %d, or another order", len(got), len(want))
	}
}

// TestTailUnit runs the command of siem.md's systemd unit beside a daemon, and rotates its file as the page says: the files
// together are the journal, in its order.
func TestTailUnit(t *testing.T) {
	t.Parallel()
	unit := strings.ReplaceAll(strings.Join(blocks(t, "siem.md", "ini"), ""), "\\\n", " ")
	start := regexp.MustCompile(`(?m)^ExecStart=/bin/sh -c '([^']+)'$`).FindStringSubmatch(unit)
	if start == nil {
		t.Fatal("siem.md has no unit that runs a shell")
	}
	dir := t.TempDir()
	url := startDaemon(t, dir)
	command := strings.NewReplacer("$$", "$", "/usr/local/bin/usagectl", bin(t, "usagectl"), "http://usaged-0:8080", url).Replace(start[1])
	state, data := filepath.Join(dir, "state"), filepath.Join(dir, "data")
	if err := os.Mkdir(state, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte(read(t, filepath.Join(data, "admin.token"))), 0o600); err != nil {
		t.Fatal(err)
	}
	var got []string
	for rotation := range 3 {
		cmd := exec.Command("/bin/sh", "-c", command)
		cmd.Env = append(os.Environ(), "STATE_DIRECTORY="+state, "CREDENTIALS_DIRECTORY="+dir)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			sendTo(t, data)
		}
		file := filepath.Join(state, "events.ndjson")
		waitForLines(t, file, 50, "cursors", &stderr)
		rotated := file + "-" + strconv.Itoa(rotation)
		if err := os.Rename(file, rotated); err != nil {
			t.Fatal(err)
		}
		sendTo(t, data) // into the renamed file, or into the next one
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Fatalf("the command ends with %v: %s", err, &stderr)
		}
		got = append(got, eventIDs(read(t, rotated))...)
	}
	want := journalIDs(t, data) // of which the last ones may wait for the next start
	if !slices.Equal(got, want[:min(len(got), len(want))]) {
		t.Errorf("the files have %d events, the journal %d, or another order", len(got), len(want))
	}
}

// sendTo sends ten events.
func sendTo(t *testing.T, data string) {
	t.Helper()
	send := exec.Command(bin(t, "usagectl"), "--data.dir="+data, "send", "-")
	send.Stdin = strings.NewReader(strings.Repeat(`{"event_type":"a","user_id":"ann"}`+"\n", 10))
	if out, err := send.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// journalIDs are the ids of all events, in the order of the journal.
func journalIDs(t *testing.T, data string) []string {
	t.Helper()
	journal, err := exec.Command(bin(t, "usagectl"), "journal", "cat", data).Output()
	if err != nil {
		t.Fatal(err)
	}
	return eventIDs(string(journal))
}

func eventIDs(lines string) (ids []string) {
	for _, m := range regexp.MustCompile(`"id":"([^"]+)"`).FindAllStringSubmatch(lines, -1) {
		ids = append(ids, m[1])
	}
	return ids
}

// waitForLines waits until so many lines are written, and the file that holds how far knows the last of them.
func waitForLines(t *testing.T, path string, n int, progress string, stderr *bytes.Buffer) {
	t.Helper()
	err := waittest.Retry(func() error {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		known, err := os.ReadFile(filepath.Join(filepath.Dir(path), progress))
		if err != nil {
			return err
		}
		if lines := bytes.Count(data, []byte("\n")); lines < n || !bytes.Contains(known, lastCursor(data)) {
			return fmt.Errorf("%s has %d of %d events, and its cursor is %q", path, lines, n, known)
		}
		return nil
	})
	if err != nil {
		t.Fatalf("the command does not go on: %v: %s", err, stderr)
	}
}

// lastCursor is the cursor of the last line.
func lastCursor(data []byte) []byte {
	const key = `"cursor":"`
	cursor, _, _ := bytes.Cut(data[bytes.LastIndex(data, []byte(key))+len(key):], []byte(`"`))
	return cursor
}
