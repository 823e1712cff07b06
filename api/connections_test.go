package api_test

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"

	"github.com/VictoriaMetrics/metrics"

	"usaged/api"
)

// bounded is a server with a limit of connections.
type bounded struct {
	t       *testing.T
	address string
	set     *metrics.Set
	busy    chan struct{} // a request for /busy is being answered
	release chan struct{} // it is answered
}

func newBounded(t *testing.T, limit int) *bounded {
	t.Helper()
	b := &bounded{t: t, set: metrics.NewSet(), busy: make(chan struct{}), release: make(chan struct{})}
	handler := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/busy" {
			b.busy <- struct{}{}
			<-b.release
		}
	})
	connections := api.NewConnections(limit)
	connections.Expose(b.set)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := api.Server(handler, slog.New(slog.DiscardHandler))
	connections.Bound(server)
	go server.Serve(connections.Listen(listener))
	t.Cleanup(func() { server.Close() })
	b.address = listener.Addr().String()
	return b
}

// conn is a client's connection.
type conn struct {
	net.Conn
	*bufio.Reader
}

func (b *bounded) dial() conn {
	b.t.Helper()
	c, err := net.Dial("tcp", b.address)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { c.Close() })
	return conn{c, bufio.NewReader(c)}
}

// send sends a request and receive waits for its answer.
func (c conn) send(path string) error {
	_, err := fmt.Fprintf(c.Conn, "GET %s HTTP/1.1\r\nHost: h\r\n\r\n", path)
	return err
}

func (c conn) receive() error {
	resp, err := http.ReadResponse(c.Reader, nil)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

func (b *bounded) ask(c conn, path string) {
	b.t.Helper()
	if err := c.send(path); err != nil {
		b.t.Fatal(err)
	}
	if err := c.receive(); err != nil {
		b.t.Fatalf("no answer: %v", err)
	}
}

// TestIdleConnectionsAreClosedForNewOnes opens many more than the limit, none of which asks anything, and each new client is answered. One
// that has asked keeps its connection.
func TestIdleConnectionsAreClosedForNewOnes(t *testing.T) {
	t.Parallel()
	b := newBounded(t, 10)
	used := b.dial()
	b.ask(used, "/")
	for range 100 {
		b.dial()
	}
	b.ask(b.dial(), "/")
	b.ask(used, "/")
	if n := b.set.GetOrCreateCounter("usaged_http_connections_closed_total").Get(); n < 90 {
		t.Errorf("%d connections were closed, want those beyond the limit", n)
	}
}

// TestANewConnectionWaitsForBusyOnes has every connection busy. The new client is answered after the first of them.
func TestANewConnectionWaitsForBusyOnes(t *testing.T) {
	t.Parallel()
	b := newBounded(t, 2)
	first, second := b.dial(), b.dial()
	for _, c := range []conn{first, second} {
		if err := c.send("/busy"); err != nil {
			t.Fatal(err)
		}
		<-b.busy
	}
	answered := make(chan error, 1)
	third := b.dial()
	if err := third.send("/"); err != nil {
		t.Fatal(err)
	}
	go func() { answered <- third.receive() }()
	b.release <- struct{}{}
	if err := first.receive(); err != nil {
		t.Errorf("who was busy got no answer: %v", err)
	}
	if err := <-answered; err != nil {
		t.Errorf("who waited got no answer: %v", err)
	}
	b.release <- struct{}{}
	if err := second.receive(); err != nil {
		t.Errorf("who was busy got no answer: %v", err)
	}
}
