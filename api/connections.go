package api

import (
	"container/list"
	"crypto/tls"
	"net"
	"net/http"
	"sync"

	"github.com/VictoriaMetrics/metrics"
)

// Connections bounds how many connections are open at a time, so that descriptors are left for files. At the limit, the connection
// that has waited longest for its client is closed for a new one: first those on which nothing was ever asked. Where all are busy, new
// ones wait. It is safe for concurrent use.
//
//	connections.Bound(server)
//	err := server.Serve(connections.Listen(listener))
type Connections struct {
	limit int

	mu      sync.Mutex
	changed *sync.Cond
	open    int
	closed  *metrics.Counter // for new ones
	silent  *list.List       // of *connection, on which nothing was asked yet, the oldest first
	idle    *list.List       // of *connection, between two requests, the oldest first
}

// NewConnections returns a bound of at least one.
func NewConnections(limit int) *Connections {
	c := &Connections{limit: max(limit, 1), closed: new(metrics.Counter), silent: list.New(), idle: list.New()}
	c.changed = sync.NewCond(&c.mu)
	return c
}

// Expose adds metrics to a set; Help has their help texts.
func (c *Connections) Expose(set *metrics.Set) {
	set.GetOrCreateGauge("usaged_http_connections", func() float64 {
		c.mu.Lock()
		defer c.mu.Unlock()
		return float64(c.open)
	})
	set.GetOrCreateGauge("usaged_http_connections_limit", func() float64 { return float64(c.limit) })
	c.closed = set.GetOrCreateCounter("usaged_http_connections_closed_total")
}

// Bound lets a server tell what its connections do. It is called before the server serves.
func (c *Connections) Bound(server *http.Server) { server.ConnState = c.state }

// Listen returns a listener whose connections are counted. All listeners of one Connections share the limit.
func (c *Connections) Listen(l net.Listener) net.Listener {
	return &boundedListener{Listener: l, bound: c}
}

// state is a http.Server's ConnState.
func (c *Connections) state(conn net.Conn, state http.ConnState) {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	if conn, ok := conn.(*connection); ok {
		c.move(conn, state)
	}
}

// move notes what a connection does.
func (c *Connections) move(conn *connection, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	conn.leave()
	if conn.gone {
		return
	}
	switch state {
	case http.StateNew:
		conn.enter(c.silent)
	case http.StateIdle:
		conn.enter(c.idle)
	default:
		return
	}
	c.changed.Broadcast() // it may be closed for one that waits
}

// admit counts a connection, for which it makes room. It waits where all others are busy, and returns false where the listener is closed.
func (c *Connections) admit(l *boundedListener) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.open >= c.limit && !l.closed {
		victim := c.oldest()
		if victim == nil {
			c.changed.Wait()
			continue
		}
		c.closed.Inc()
		c.remove(victim)
		c.mu.Unlock()
		_ = victim.Conn.Close() // nobody is left to tell
		c.mu.Lock()
	}
	if l.closed {
		return false
	}
	c.open++
	return true
}

// oldest returns the connection to close for a new one, or nil.
func (c *Connections) oldest() *connection {
	for _, waiting := range []*list.List{c.silent, c.idle} {
		if first := waiting.Front(); first != nil {
			return first.Value.(*connection)
		}
	}
	return nil
}

// remove takes back what admit counted, once.
func (c *Connections) remove(conn *connection) {
	if conn.gone {
		return
	}
	conn.gone = true
	conn.leave()
	c.open--
	c.changed.Broadcast()
}

// boundedListener is a listener whose connections are counted.
type boundedListener struct {
	net.Listener
	bound  *Connections
	closed bool // guarded by bound.mu
}

// Accept returns the next connection when there is room for it.
func (l *boundedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if !l.bound.admit(l) {
		_ = conn.Close()
		return nil, net.ErrClosed
	}
	return &connection{Conn: conn, bound: l.bound}, nil
}

// Close ends Accept, also one that waits for room.
func (l *boundedListener) Close() error {
	l.bound.mu.Lock()
	l.closed = true
	l.bound.changed.Broadcast()
	l.bound.mu.Unlock()
	return l.Listener.Close()
}

// connection is one that is counted. Fields beside the first two are guarded by bound.mu.
type connection struct {
	net.Conn
	bound *Connections

	gone bool
	in   *list.List    // silent, idle, or nil while it is busy
	at   *list.Element // in that
}

func (c *connection) enter(in *list.List) { c.in, c.at = in, in.PushBack(c) }

func (c *connection) leave() {
	if c.in != nil {
		c.in.Remove(c.at)
		c.in, c.at = nil, nil
	}
}

// Close closes the connection, and makes room.
func (c *connection) Close() error {
	c.bound.mu.Lock()
	c.bound.remove(c)
	c.bound.mu.Unlock()
	return c.Conn.Close()
}
