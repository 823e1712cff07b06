// Package redistest starts real Redis servers for tests: one alone, a master and replicas behind Sentinels, or a cluster. All
// listen on loopback addresses with ports of their own, keep their data in temporary directories, and die with the test.
//
//	srv := redistest.Start(t)
//	st, err := redis.Open(ctx, redis.Config{URL: srv.URL(), Retention: 30})
//	srv.Kill()
//
// Without a redis-server on the path the test is skipped, or fails where CI is "true".
package redistest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"usaged/tools/waittest"
)

// Timeout is how long servers may take to start and to answer, and clusters to agree. It is reached in a failure alone.
const Timeout = 2 * time.Minute

// Server is a Redis server. It is not safe for concurrent use, except Do and Call.
type Server struct {
	// Addr is host:port. It stays the same when the server is restarted.
	Addr string
	// Dir is where it keeps its data and its log.
	Dir string

	tb       testing.TB
	args     []string
	sentinel string // its configuration, where it is a Sentinel
	exited   chan struct{}
	process  *os.Process
	// user and password are what Call authenticates with.
	user, password string
}

// Start starts a server with redis-server's options, as in Start(t, "--maxmemory", "10mb"). Without any it writes nothing to
// its disk; "--appendonly", "yes" and "--save" change that.
func Start(tb testing.TB, args ...string) *Server {
	tb.Helper()
	s := newServer(tb)
	s.args = append([]string{"--save", "", "--appendonly", "no"}, args...)
	s.start()
	return s
}

func newServer(tb testing.TB) *Server {
	tb.Helper()
	requireServer(tb)
	s := &Server{tb: tb, Dir: tb.TempDir(), Addr: FreeAddr(tb)}
	tb.Cleanup(s.Kill)
	return s
}

// requireServer skips the test where there is no redis-server.
func requireServer(tb testing.TB) {
	tb.Helper()
	if _, err := exec.LookPath("redis-server"); err == nil {
		return
	}
	const message = "this test needs redis-server: get it with your system's packages, on Debian: sudo apt-get install redis-server"
	if os.Getenv("CI") == "true" {
		tb.Fatal(message)
	}
	tb.Skip(message)
}

// FreeAddr returns an address on which nothing listens.
func FreeAddr(tb testing.TB) string {
	tb.Helper()
	return "127.0.0.1:" + strconv.Itoa(freePort(tb))
}

// freePort returns a port that is free, and so is the one 10,000 above, which a cluster's bus takes. Below the ports that
// the system gives out, so that nobody takes it before the server does.
func freePort(tb testing.TB) int {
	tb.Helper()
	for range 100 {
		port := 12_000 + rand.IntN(10_000)
		if free(port) && free(port+10_000) {
			return port
		}
	}
	tb.Fatal("no free port")
	return 0
}

func free(port int) bool {
	l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
	if err != nil {
		return false
	}
	l.Close()
	return true
}

// Port returns the port.
func (s *Server) Port() string {
	_, port, _ := strings.Cut(s.Addr, ":")
	return port
}

// URL returns the server's URL, for the daemon's --redis.url.
func (s *Server) URL() string { return "redis://" + s.Addr }

// Login makes Call authenticate.
func (s *Server) Login(user, password string) { s.user, s.password = user, password }

func (s *Server) start() {
	s.tb.Helper()
	s.run()
	Eventually(s.tb, func() bool {
		reply, err := s.Call("PING")
		return reply == "PONG" || err != nil && strings.HasPrefix(err.Error(), "NOAUTH")
	}, func() string { return "redis-server does not start; its log ends with\n" + s.logTail() })
}

// run starts the process.
func (s *Server) run() {
	s.tb.Helper()
	log, err := os.OpenFile(filepath.Join(s.Dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		s.tb.Fatal(err)
	}
	defer log.Close()
	args := []string{"--bind", "127.0.0.1", "--port", s.Port(), "--dir", s.Dir}
	if s.sentinel != "" {
		args = []string{s.sentinel, "--sentinel"}
	}
	cmd := exec.Command("redis-server", append(args, s.args...)...)
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = log, log, childAttr()
	s.exited = make(chan struct{})
	started := make(chan error)
	go func() {
		defer close(s.exited)
		// The kernel kills the child when the thread that started it ends, so keep that.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ends is of no interest
		}
	}()
	if err := <-started; err != nil {
		s.tb.Fatalf("start redis-server: %v", err)
	}
	s.process = cmd.Process
}

// Kill kills the server (SIGKILL) and waits for its end. Killing it twice is fine.
func (s *Server) Kill() {
	if s.process == nil {
		return
	}
	_ = s.process.Kill() // it may have ended by itself
	<-s.exited
	s.process = nil
}

// Hang stops the server without closing its connections; Continue lets it go on.
func (s *Server) Hang() { s.signal(syscall.SIGSTOP) }

// Continue ends Hang.
func (s *Server) Continue() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig os.Signal) {
	s.tb.Helper()
	if err := s.process.Signal(sig); err != nil {
		s.tb.Fatalf("signal redis-server: %v", err)
	}
}

// Restart starts a server that was killed, with the data that it left.
func (s *Server) Restart() {
	s.tb.Helper()
	s.Kill()
	s.start()
}

// RestartAnyhow is Restart without waiting until the server answers.
func (s *Server) RestartAnyhow() {
	s.tb.Helper()
	s.Kill()
	s.run()
}

// Option adds an option to those with which the server is restarted.
func (s *Server) Option(args ...string) { s.args = append(s.args, args...) }

// Do sends a command and returns the reply as text, one line for each element of a list. It fails the test on an error.
func (s *Server) Do(args ...string) string {
	s.tb.Helper()
	reply, err := s.Call(args...)
	if err != nil {
		s.tb.Fatalf("redis %s: %s: %v", s.Addr, strings.Join(args, " "), err)
	}
	return reply
}

// Call is Do that returns errors.
func (s *Server) Call(args ...string) (string, error) {
	c, err := dial(s.Addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if s.password != "" {
		if _, err := c.call("AUTH", s.user, s.password); err != nil {
			return "", err
		}
	}
	return c.call(args...)
}

// WaitFor calls a command until its reply contains a text.
func (s *Server) WaitFor(text string, args ...string) {
	s.tb.Helper()
	var reply string
	var err error
	Eventually(s.tb, func() bool {
		reply, err = s.Call(args...)
		return err == nil && strings.Contains(reply, text) || err != nil && strings.Contains(err.Error(), text)
	}, func() string {
		return fmt.Sprintf("redis %s: %s: %q, %v, want %q; its log ends with\n%s", s.Addr, strings.Join(args, " "), reply, err, text, s.logTail())
	})
}

func (s *Server) logTail() string {
	text, err := os.ReadFile(filepath.Join(s.Dir, "log"))
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-2000):])
}

// Eventually polls until a condition holds, and fails the test with a message where nothing moves any more.
func Eventually(tb testing.TB, holds func() bool, message func() string) {
	tb.Helper()
	waittest.Until(tb, "redistest", func() error {
		if holds() {
			return nil
		}
		return errors.New(message())
	})
}
