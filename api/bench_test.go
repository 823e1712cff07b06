package api_test

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/gorilla/mux"

	"usaged/aggregator/event"
	"usaged/aggregator/rollup"
	"usaged/api"
)

const sampleEvent = `{"id":"0193a1f0-7a53-7c4e-9d2e-3f1c5a7b9d10","user_id":"user-1234","event_type":"sql_execution",` +
	`"metadata":{"question":"revenue by region","rows":"42","outcome":"success"},"source":"portal"}`

type acceptAll struct{}

func (acceptAll) Accept(*event.Batch) error { return nil }

func benchRig(b *testing.B) *rig {
	return newRig(b, func(c *api.Config) {
		c.Accepter = acceptAll{}
		c.Logger = slog.New(slog.DiscardHandler)
	})
}

// sink is a ResponseWriter that costs nothing.
type sink struct {
	header http.Header
	code   int
	n      int
}

func (s *sink) Header() http.Header  { return s.header }
func (s *sink) WriteHeader(code int) { s.code = code }
func (s *sink) Write(b []byte) (int, error) {
	s.n += len(b)
	return len(b), nil
}

// replay is a request body that can be read again.
type replay struct{ bytes.Reader }

func (*replay) Close() error { return nil }

// BenchmarkIngest measures a POST of events without the network and with a journal that does nothing.
func BenchmarkIngest(b *testing.B) {
	for _, batch := range []int{1, 1000} {
		body := sampleEvent
		if batch > 1 {
			body = "[" + strings.Repeat(sampleEvent+",", batch-1) + sampleEvent + "]"
		}
		b.Run(fmt.Sprintf("batch=%d", batch), func(b *testing.B) {
			r := benchRig(b)
			req, err := http.NewRequest(http.MethodPost, "/api/v1/usage/events", nil)
			if err != nil {
				b.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("Authorization", "Bearer "+tokenOf("producer"))
			req.ContentLength = int64(len(body))
			src, data := &replay{}, []byte(body)
			req.Body = src
			w := &sink{header: http.Header{}}
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				src.Reset(data)
				clear(w.header)
				r.handler.ServeHTTP(w, req)
			}
			if w.code != http.StatusAccepted {
				b.Fatalf("status %d", w.code)
			}
		})
	}
}

// BenchmarkSummary measures the encoding of 50,000 rows, and of the answer that nothing has changed.
func BenchmarkSummary(b *testing.B) {
	r := benchRig(b)
	r.rollups.types = nil
	for t := range 5 {
		users := make([]rollup.Total, 10_000)
		for i := range users {
			users[i] = rollup.Total{Key: fmt.Sprintf("user-%d@example.org", i), N: uint64(100_000 - i)}
		}
		r.rollups.types = append(r.rollups.types, rollup.TypeUsers{Type: fmt.Sprintf("type-%d", t), Users: users})
	}
	etag := r.call("HEAD", "/api/v1/usage/summary", "admin", "").Header().Get("Etag")
	for name, header := range map[string][2]string{
		"answer=plain": {}, "answer=304": {"If-None-Match", etag},
		"answer=gzip": {"Accept-Encoding", "gzip"}, "answer=zstd": {"Accept-Encoding", "zstd"},
	} {
		b.Run(name, func(b *testing.B) {
			req, err := http.NewRequest(http.MethodGet, "/api/v1/usage/summary", http.NoBody)
			if err != nil {
				b.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+tokenOf("admin"))
			if header[0] != "" {
				req.Header.Set(header[0], header[1])
			}
			w := &sink{header: http.Header{}}
			b.ReportAllocs()
			for b.Loop() {
				w.n = 0
				clear(w.header)
				r.handler.ServeHTTP(w, req)
			}
			b.ReportMetric(float64(w.n), "bytes")
		})
	}
}

// BenchmarkServer measures single POSTs over 128 connections of the loopback device, beside a handler of mux that does
// nothing but read the body. Client and server share the processors.
func BenchmarkServer(b *testing.B) {
	bare := mux.NewRouter()
	bare.HandleFunc("/api/v1/usage/events", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.WriteString(w, `{"status":"accepted"}`)
	})
	for name, handler := range map[string]http.Handler{"bare": bare, "api": benchRig(b).handler} {
		b.Run("handler="+name+"/connections=128", func(b *testing.B) {
			server := api.Server(handler, slog.New(slog.DiscardHandler))
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			go func() { _ = server.Serve(l) }()
			defer func() { _ = server.Close() }()
			request := []byte("POST /api/v1/usage/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + tokenOf("producer") +
				"\r\nContent-Type: application/json\r\nContent-Length: " + strconv.Itoa(len(sampleEvent)) + "\r\n\r\n" + sampleEvent)
			b.SetParallelism(128 / runtime.GOMAXPROCS(0))
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) { post(b, pb, l.Addr().String(), request) })
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "req/s")
		})
	}
}

// post sends a request over one connection again and again.
func post(b *testing.B, pb *testing.PB, addr string, request []byte) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		b.Error(err)
		return
	}
	defer func() { _ = conn.Close() }()
	answer := make([]byte, 4096)
	for pb.Next() {
		if _, err := conn.Write(request); err != nil {
			b.Error(err)
			return
		}
		n, err := conn.Read(answer)
		if err != nil || !bytes.HasPrefix(answer[:n], []byte("HTTP/1.1 202")) {
			b.Errorf("answer %q, error %v", answer[:n], err)
			return
		}
	}
}
