package api

import (
	"log/slog"
	"net/http"
	"time"
)

// requestReadTimeout is how long a request may take to arrive, header and body together. The largest body in this time is 140 kB/s;
// who is slower sends smaller batches.
const requestReadTimeout = time.Minute

// Server returns an HTTP server for the API. The caller serves and shuts it down.
//
// It has no WriteTimeout, which would end answers that are streamed for longer; the handler sets a deadline of its own
// on every answer. A handler that streams for longer than ReadTimeout clears the read deadline of its connection
// (http.ResponseController.SetReadDeadline), because the expiry of that deadline cancels the request's context.
func Server(handler http.Handler, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler: handler,
		// A client that trickles its header holds a connection and nothing else; it gets five seconds.
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       requestReadTimeout,
		// Longer than the idle timeout of common load balancers (60 s), so that it is they who close a connection: a
		// server that closes first races with the next request.
		IdleTimeout: 2 * time.Minute,
		// Ours need less than 1 KiB. Grafana asks the API of Prometheus for the values of labels by GET alone, with selectors in the
		// address that may name hundreds of series. net/http adds 4 KiB to this.
		MaxHeaderBytes: 256 << 10,
		// What one client may have under way on a connection, and how long one that neither reads nor answers keeps it.
		HTTP2:    &http.HTTP2Config{MaxConcurrentStreams: 100, SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second, WriteByteTimeout: 30 * time.Second},
		ErrorLog: slog.NewLogLogger(logger.With("component", "http").Handler(), slog.LevelWarn),
	}
}
