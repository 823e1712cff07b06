package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
)

// TestStop stops the daemon under load. It says so by its readiness before it refuses anything, says what it waits for, answers
// what is in flight, exits with 0, and has lost nothing.
func TestStop(t *testing.T) {
	t.Parallel()
	d := newInstance(t, "--web.drain-delay=1s")
	d.start()
	address := strings.TrimPrefix(d.url, "http://")
	l := startLoad(t, d, seed(t), 1)
	w := startWatch(t, d, l)
	l.until(100)
	inFlight := startRequest(t, d)
	d.signal(syscall.SIGTERM)
	eventually(t, "not ready", func() error {
		if d.ready() == nil {
			return errors.New("/-/ready says 200 after SIGTERM")
		}
		return nil
	})
	d.post(`{"event_type":"drained","user_id":"ann"}`) // still taken
	eventually(t, "closed listener", func() error {
		if conn, err := net.Dial("tcp", address); err == nil {
			conn.Close()
			return errors.New("it still listens")
		}
		return nil
	})
	eventually(t, "a word on what the stop waits for", func() error {
		if log := d.log.String(); !strings.Contains(log, `msg="still stopping" waiting_for="HTTP server"`) {
			return errors.New("not in the log")
		}
		return nil
	})
	inFlight.finish(t)
	if code := d.wait(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	d.start()
	l.reach(d.url)
	l.stop()
	w.stop()
	f := d.figures(7)
	for _, eventType := range []string{"drained", "in flight"} {
		if got := f.Summary[eventType]["ann"]; got != 1 {
			t.Errorf("type %q: counted %d, want 1", eventType, got)
		}
		delete(f.Summary, eventType)
	}
	l.judge(f)
	w.judge(f)
	d.stop()
}

// request is one whose body is not sent to its end yet.
type request struct {
	conn net.Conn
	rest string
}

func startRequest(t *testing.T, d *instance) *request {
	t.Helper()
	const body = `{"event_type":"in flight","user_id":"ann"}`
	conn, err := net.Dial("tcp", strings.TrimPrefix(d.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	// The daemon says 100 when it has begun to read the body.
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n",
		eventsPath, d.token("producer"), len(body))
	line, err := bufio.NewReaderSize(conn, 16).ReadString('\n')
	if err != nil || !strings.Contains(line, "100") {
		t.Fatalf("%v, %q; want 100 Continue", err, line)
	}
	fmt.Fprint(conn, body[:20])
	return &request{conn, body[20:]}
}

func (r *request) finish(t *testing.T) {
	t.Helper()
	fmt.Fprint(r.conn, r.rest)
	answers := bufio.NewReader(r.conn)
	for { // the rest of the 100 comes first
		line, err := answers.ReadString('\n')
		if err != nil {
			t.Fatalf("a request in flight got no answer: %v", err)
		}
		if status, ok := strings.CutPrefix(line, "HTTP/1.1 "); ok {
			if !strings.HasPrefix(status, fmt.Sprint(http.StatusAccepted)) {
				t.Errorf("a request in flight got %q, want 202", status)
			}
			return
		}
	}
}

// TestSecondSignal ends a daemon that is draining.
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	d := newInstance(t, "--web.drain-delay=1h")
	d.start()
	d.post(`{"event_type":"a","user_id":"ann"}`)
	d.signal(syscall.SIGINT)
	eventually(t, "not ready", func() error {
		if d.ready() == nil {
			return errors.New("/-/ready says 200 after SIGINT")
		}
		return nil
	})
	d.signal(syscall.SIGTERM)
	if code := d.wait(); code == 0 {
		t.Error("exit code 0, want another")
	}
	d.args = d.args[:2]
	d.start()
	if got := d.settle().All.Counted; got != 1 {
		t.Errorf("counted %d, want 1", got)
	}
	d.stop()
}
