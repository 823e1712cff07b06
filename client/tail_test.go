package client_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"

	"usaged/client"
)

// tailScript answers each request for events with the next of its bodies, and breaks the connection behind one that ends in
// the middle of a line.
type tailScript struct {
	bodies []string
	asked  []string // what was asked for
}

func (s *tailScript) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	s.asked = append(s.asked, q.Get("after")+" "+q.Get("limit"))
	body := s.bodies[0]
	s.bodies = s.bodies[1:]
	if status, err := strconv.Atoi(body); err == nil {
		w.WriteHeader(status)
		return
	}
	_, _ = fmt.Fprint(w, body)
	if !strings.HasSuffix(body, "\n") {
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
}

func tailLines(from, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `{"cursor":"c%d","accepted_at":"2026-11-23T12:00:00Z","token":"t","id":"%d","user_id":"u","event_type":"a","metadata":{},"created_at":"2026-11-23T12:00:00Z"}`+"\n", from+i, from+i)
	}
	return b.String()
}

func tailed(t *testing.T, s *tailScript, q client.TailQuery) (ids []string, err error) {
	t.Helper()
	srv := httptest.NewServer(s)
	defer srv.Close()
	c, err := client.New(client.Config{URL: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for e, err := range c.Tail(t.Context(), q) {
		if err != nil {
			return ids, err
		}
		if e.IsEvent() {
			ids = append(ids, e.ID)
		}
	}
	return ids, nil
}

const tailEnd = `{"cursor":"end","end":true}` + "\n"

// TestTailResumes breaks connections between lines and inside one, restarts the server, and fills answers only in part.
func TestTailResumes(t *testing.T) {
	t.Parallel()
	s := &tailScript{bodies: []string{
		tailLines(0, 2) + "\n" + `{"cursor":"c2","acc`, "503", tailLines(2, 1), `{"cursor":"p"}` + "\n", tailLines(3, 2) + tailEnd,
	}}
	ids, err := tailed(t, s, client.TailQuery{})
	if err != nil || !slices.Equal(ids, []string{"0", "1", "2", "3", "4"}) {
		t.Errorf("%v, %v", ids, err)
	}
	if want := []string{" 1000000", "c1 1000000", "c1 1000000", "c2 1000000", "p 1000000"}; !slices.Equal(s.asked, want) {
		t.Errorf("asked %q, want %q", s.asked, want)
	}
}

func TestTailLimit(t *testing.T) {
	t.Parallel()
	s := &tailScript{bodies: []string{tailLines(0, 2), tailLines(2, 1)}}
	ids, err := tailed(t, s, client.TailQuery{Limit: 3, Follow: true})
	if err != nil || len(ids) != 3 || !slices.Equal(s.asked, []string{" 3", "c1 1"}) {
		t.Errorf("%v, %v, asked %q", ids, err, s.asked)
	}
}

// TestTailStops holds which errors end a tail, and that leaving the loop does, also when the context has ended.
func TestTailStops(t *testing.T) {
	t.Parallel()
	_, err := tailed(t, &tailScript{bodies: []string{"410"}}, client.TailQuery{After: "x", Follow: true})
	if problem, ok := errors.AsType[*client.Problem](err); !ok || problem.Status != http.StatusGone {
		t.Errorf("410: %v", err)
	}
	srv := httptest.NewServer(&tailScript{bodies: []string{tailLines(0, 5)}})
	defer srv.Close()
	c, err := client.New(client.Config{URL: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n := 0
	for range c.Tail(ctx, client.TailQuery{Follow: true}) {
		n++
		cancel()
		break
	}
	if n != 1 {
		t.Errorf("%d events after the loop was left", n)
	}
	for _, err := range c.Tail(ctx, client.TailQuery{Follow: true}) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("an ended context: %v", err)
		}
	}
}
