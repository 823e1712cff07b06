package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"usaged/client"
)

const (
	loadTimeout     = 30 * time.Second
	maxExcerptBytes = 400
)

// dialer connects to the daemon.
type dialer struct{ target *url.URL }

// loadConn is a keep-alive HTTP/1.1 connection that writes requests which are already encoded and reads no more of the
// answers than it must. It takes the place of net/http because on a small machine the driver shares the CPU with what
// it measures. It is not an HTTP client for anything else.
type loadConn struct {
	conn   net.Conn
	br     *bufio.Reader
	status int
	body   []byte // the beginning of the last answer's body
	last   bool   // the daemon closes the connection behind this answer
	unhook func() bool

	deadline time.Time
}

func (d dialer) open(ctx context.Context) (*loadConn, error) {
	c := &loadConn{}
	return c, c.reopen(ctx, d)
}

// reopen connects, again where it was connected before.
func (c *loadConn) reopen(ctx context.Context, d dialer) error {
	c.close()
	port := d.target.Port()
	if port == "" {
		port = d.target.Scheme // net.Dial knows both names
	}
	address := net.JoinHostPort(d.target.Hostname(), port)
	var dial interface {
		DialContext(ctx context.Context, network, address string) (net.Conn, error)
	} = &net.Dialer{Timeout: loadTimeout}
	if d.target.Scheme == "https" {
		dial = &tls.Dialer{}
	}
	conn, err := dial.DialContext(ctx, "tcp", address)
	if err != nil {
		return &client.Unreachable{Method: http.MethodPost, Path: "", Err: err}
	}
	c.conn, c.br, c.last, c.deadline = conn, bufio.NewReader(conn), false, time.Time{}
	c.unhook = context.AfterFunc(ctx, func() { conn.Close() })
	return nil
}

func (c *loadConn) close() {
	if c.conn == nil {
		return
	}
	c.unhook()
	c.conn.Close()
	c.conn = nil
}

// post sends a request and reads its answer.
func (c *loadConn) post(wire []byte) error {
	if c.last {
		return errors.New("the daemon closed the connection")
	}
	if now := time.Now(); c.deadline.Sub(now) < loadTimeout/2 { // moving it is not free
		c.deadline = now.Add(loadTimeout)
		if err := c.conn.SetDeadline(c.deadline); err != nil {
			return err
		}
	}
	if _, err := c.conn.Write(wire); err != nil {
		return err
	}
	return c.readAnswer()
}

func (c *loadConn) readAnswer() error {
	line, err := c.br.ReadSlice('\n')
	if err != nil {
		return err
	}
	// HTTP/1.1 202 Accepted
	if len(line) < len("HTTP/1.1 202") || !bytes.HasPrefix(line, []byte("HTTP/1.")) {
		return fmt.Errorf("not an HTTP answer: %.40q", line)
	}
	if c.status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return fmt.Errorf("not an HTTP status: %.40q", line)
	}
	c.body = c.body[:0]
	length, chunked, err := c.readHeader()
	if err != nil {
		return err
	}
	if !chunked {
		return c.readBody(length)
	}
	for {
		line, err := c.br.ReadSlice('\n')
		if err != nil {
			return err
		}
		size, err := strconv.ParseInt(string(bytes.TrimSpace(line)), 16, 64)
		if err != nil {
			return fmt.Errorf("not a chunk: %.40q", line)
		}
		if err := c.readBody(size); err != nil {
			return err
		}
		if _, err := c.br.ReadSlice('\n'); err != nil || size == 0 {
			return err
		}
	}
}

// readHeader reads up to the blank line. The two fields that say where the body ends are all that matters.
func (c *loadConn) readHeader() (length int64, chunked bool, err error) {
	for {
		line, err := c.br.ReadSlice('\n')
		if err != nil {
			return 0, false, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			return length, chunked, nil
		}
		name, value, _ := bytes.Cut(line, []byte{':'})
		value = bytes.TrimSpace(value)
		switch len(name) { // spares most fields the comparison
		case len("Content-Length"):
			if strings.EqualFold(string(name), "Content-Length") {
				if length, err = strconv.ParseInt(string(value), 10, 64); err != nil {
					return 0, false, err
				}
			}
		case len("Transfer-Encoding"):
			chunked = chunked || strings.EqualFold(string(name), "Transfer-Encoding")
		case len("Connection"):
			c.last = c.last || strings.EqualFold(string(name), "Connection") && strings.EqualFold(string(value), "close")
		}
	}
}

// readBody skips a body or a part of one and keeps its beginning.
func (c *loadConn) readBody(length int64) error {
	if length < 0 {
		return fmt.Errorf("not a length: %d", length)
	}
	keep := min(length, int64(maxExcerptBytes-len(c.body)))
	at := len(c.body)
	c.body = append(c.body, make([]byte, keep)...)
	if _, err := io.ReadFull(c.br, c.body[at:]); err != nil {
		return err
	}
	_, err := io.CopyN(io.Discard, c.br, length-keep)
	return err
}

// excerpt is the last answer for people.
func (c *loadConn) excerpt() string {
	return fmt.Sprintf("%s %s", http.StatusText(c.status), c.body)
}
