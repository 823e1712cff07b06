package redistest

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// Proxy passes connections on to a server, and can cut them at the worst moment.
type Proxy struct {
	// Addr is host:port.
	Addr string

	to       string
	listener net.Listener
	lose     atomic.Int64
	replies  atomic.Int64
	lost     atomic.Int64
	refuse   atomic.Bool

	mu    sync.Mutex
	conns map[net.Conn]struct{}
	wg    sync.WaitGroup
}

// StartProxy starts a proxy to an address.
func StartProxy(tb testing.TB, to string) *Proxy {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	p := &Proxy{Addr: l.Addr().String(), to: to, listener: l, conns: make(map[net.Conn]struct{})}
	p.wg.Go(p.accept)
	tb.Cleanup(func() {
		l.Close()
		p.Cut()
		p.wg.Wait()
	})
	return p
}

// URL returns the URL of the server behind the proxy.
func (p *Proxy) URL() string { return "redis://" + p.Addr }

// LoseReplies cuts the connection instead of passing on every nth part of a reply: the server has done then what the
// client doesn't know of. 0 ends it.
func (p *Proxy) LoseReplies(n int) { p.lose.Store(int64(n)) }

// Lost returns how many replies were lost.
func (p *Proxy) Lost() int { return int(p.lost.Load()) }

// Refuse cuts all connections, and every new one at once, until it is told otherwise.
func (p *Proxy) Refuse(refuse bool) {
	p.refuse.Store(refuse)
	if refuse {
		p.Cut()
	}
}

// Cut cuts all connections.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
}

func (p *Proxy) accept() {
	for {
		c, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			p.wg.Go(func() { p.serve(c) })
		}
	}
}

func (p *Proxy) serve(c net.Conn) {
	defer p.track(c)()
	if p.refuse.Load() {
		return
	}
	server, err := net.Dial("tcp", p.to)
	if err != nil {
		return
	}
	defer p.track(server)()
	p.wg.Go(func() {
		_, _ = io.Copy(server, c) // either side may be cut at any time
		server.Close()
	})
	p.reply(c, server)
}

// track closes a connection when the function that it returns is called, or at the next Cut.
func (p *Proxy) track(c net.Conn) func() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[c] = struct{}{}
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.conns, c)
		c.Close()
	}
}

// reply passes on what the server says.
func (p *Proxy) reply(c, server net.Conn) {
	buf := make([]byte, 64<<10)
	for {
		n, err := server.Read(buf)
		if err != nil {
			return
		}
		if every := p.lose.Load(); every > 0 && p.replies.Add(1)%every == 0 {
			p.lost.Add(1)
			return
		}
		if _, err := c.Write(buf[:n]); err != nil {
			return
		}
	}
}
