package embedded

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/scrape"
)

// selfJob is the job of the scrape of the daemon itself.
const selfJob = "usaged"

// unaligned switches off Prometheus' alignment of scrape times: after the clock went back it stamps every scrape with one
// time, that of the last one before, until the clock is there again. It is a variable of package scrape, so it is set once.
var unaligned = sync.OnceFunc(func() { scrape.AlignScrapeTimestamps = false })

// selfScrape is the daemon's registry as a target that is dialled in memory: no port, no TLS, no token, and all that
// Prometheus knows about targets, such as up and staleness.
type selfScrape struct {
	instance string
	server   *http.Server
	conns    chan net.Conn
	closed   chan struct{}
	once     sync.Once
	served   sync.WaitGroup
}

func newSelfScrape(metrics http.Handler, instance string) *selfScrape {
	unaligned()
	s := &selfScrape{
		instance: instance,
		server:   &http.Server{Handler: metrics, ReadHeaderTimeout: 10 * time.Second},
		conns:    make(chan net.Conn),
		closed:   make(chan struct{}),
	}
	s.served.Go(func() { _ = s.server.Serve(s) }) // it ends when it is closed
	return s
}

// options are those of the scraper, whose targets are dialled here or, with any other address, over the network.
func (s *selfScrape) options() *scrape.Options {
	return &scrape.Options{
		AppendMetadata:           true,
		ParseST:                  true,
		DiscoveryReloadInterval:  model.Duration(100 * time.Millisecond), // there is no discovery that could flap
		DiscoveryReloadOnStartup: true,
		ScrapeOnShutdown:         true,
		HTTPClientOptions:        []config.HTTPClientOption{config.WithDialContextFunc(s.dial)},
	}
}

func (s *selfScrape) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if address != s.instance {
		var dialer net.Dialer
		return dialer.DialContext(ctx, network, address)
	}
	ours, theirs := net.Pipe()
	select {
	case s.conns <- theirs:
		return ours, nil
	case <-s.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Accept, Close and Addr make it a net.Listener.
func (s *selfScrape) Accept() (net.Conn, error) {
	select {
	case c := <-s.conns:
		return c, nil
	case <-s.closed:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (s *selfScrape) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

// Addr names the listener.
func (s *selfScrape) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }

func (s *selfScrape) close() error {
	err := errors.Join(s.server.Close(), s.Close())
	s.served.Wait()
	return err
}
