package main

import (
	"bufio"
	"strings"
	"testing"
)

func TestReadAnswer(t *testing.T) {
	t.Parallel()
	const next = "HTTP/1.1 204 No Content\r\n\r\n"
	for _, tc := range []struct {
		name, wire string
		status     int // 0: an error
		body       string
		last       bool
	}{
		{"it reads a body of known length", "HTTP/1.1 202 Accepted\r\ncontent-length: 3\r\nDate: x\r\n\r\nabc", 202, "abc", false},
		{"it reads no body", "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n", 202, "", false},
		{"it reads chunks", "HTTP/1.1 503 X\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", 503, "abcde", false},
		{"it keeps only the beginning", "HTTP/1.1 422 X\r\nContent-Length: 1000\r\n\r\n" + strings.Repeat("x", 1000), 422,
			strings.Repeat("x", maxExcerptBytes), false},
		{"it sees the end of the connection", "HTTP/1.1 202 Accepted\r\nConnection: Close\r\nContent-Length: 1\r\n\r\na", 202, "a", true},
		{"it refuses what is not HTTP", "SSH-2.0-OpenSSH_9.2\r\n", 0, "", false},
		{"it refuses half an answer", "HTTP/1.1 202 Accepted\r\nContent-Length: 1000000\r\n\r\nabc", 0, "", false},
		{"it refuses a wrong length", "HTTP/1.1 202 Accepted\r\nContent-Length: -x\r\n\r\n", 0, "", false},
		{"it refuses a negative length", "HTTP/1.1 202 Accepted\r\nContent-Length: -1\r\n\r\n", 0, "", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			c := &loadConn{br: bufio.NewReader(strings.NewReader(tc.wire + next))}
			err := c.readAnswer()
			if tc.status == 0 {
				if err == nil {
					t.Errorf("%q was read as %d %q", tc.wire, c.status, c.body)
				}
				return
			}
			if err != nil || c.status != tc.status || string(c.body) != tc.body || c.last != tc.last {
				t.Errorf("%d %q %v, %v; want %d %q %v", c.status, c.body, c.last, err, tc.status, tc.body, tc.last)
			}
			if err := c.readAnswer(); err != nil || c.status != 204 {
				t.Errorf("the next answer is %d, %v", c.status, err)
			}
		})
	}
}
