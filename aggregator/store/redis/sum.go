package redis

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"

	client "github.com/redis/go-redis/v9"

	"usaged/aggregator/event"
	"usaged/aggregator/meter"
)

// Sum adds up a rollup: Redis adds up the days of a partition, we the partitions. Totals beyond 2^53, which only the sum of
// several days can reach, are rounded.
func (s *Store) Sum(ctx context.Context, rollup meter.Rollup, days []event.Day, yield func(key []byte, total uint64)) error {
	const doing = "sum rollup"
	if err := s.contact(ctx); err != nil {
		return s.fail(doing, err)
	}
	if len(days) == 0 {
		return nil
	}
	replies, err := s.cells(ctx, rollup, days)
	if err != nil {
		return s.fail(doing, err)
	}
	if len(replies) == 1 {
		if err := eachCell(replies[0], yield); err != nil {
			return fmt.Errorf("%s: %w", doing, err)
		}
		return nil
	}
	sum := make(map[string]uint64)
	for _, reply := range replies {
		if err := eachCell(reply, func(key []byte, total uint64) { sum[string(key)] += total }); err != nil {
			return fmt.Errorf("%s: %w", doing, err)
		}
	}
	var key []byte
	for k, total := range sum {
		key = append(key[:0], k...)
		yield(key, total)
	}
	return nil
}

// cells reads the cells of each partition, as Redis sends them: a reply of 10,000 cells becomes one allocation instead of
// 20,000.
func (s *Store) cells(ctx context.Context, rollup meter.Rollup, days []event.Day) ([][]byte, error) {
	cmds := make([]*client.RawCmd, len(s.spaces))
	for p, space := range s.spaces {
		cmds[p] = client.NewRawCmd(ctx, cellsArgs(space, rollup, days)...)
	}
	var err error
	if len(cmds) == 1 {
		err = s.client.Process(ctx, cmds[0])
	} else {
		_, err = s.client.Pipelined(ctx, func(pipe client.Pipeliner) error {
			for _, cmd := range cmds {
				if err := pipe.Process(ctx, cmd); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err != nil {
		return nil, err
	}
	replies := make([][]byte, len(cmds))
	for p, cmd := range cmds {
		replies[p] = cmd.Val()
		if len(replies[p]) == 0 || replies[p][0] != '-' {
			continue
		}
		// A raw reply may be an error, which the client hasn't looked at: so it has followed no redirection and tried
		// nothing again. A command of the common kind does.
		list := client.NewStringSliceCmd(ctx, cellsArgs(s.spaces[p], rollup, days)...)
		if err := s.client.Process(ctx, list); err != nil {
			return nil, err
		}
		replies[p] = encodeList(list.Val())
	}
	return replies, nil
}

func cellsArgs(space *keyspace, rollup meter.Rollup, days []event.Day) []any {
	if len(days) == 1 {
		return []any{"zrange", space.rollup(days[0], rollup), 0, -1, "withscores"}
	}
	args := []any{"zunion", len(days)}
	for _, day := range days {
		args = append(args, space.rollup(day, rollup))
	}
	return append(args, "withscores")
}

// encodeList writes strings as Redis sends a list of them.
func encodeList(list []string) []byte {
	buf := fmt.Appendf(nil, "*%d\r\n", len(list))
	for _, s := range list {
		buf = fmt.Appendf(buf, "$%d\r\n%s\r\n", len(s), s)
	}
	return buf
}

var errReply = errors.New("reply of an unexpected form")

// eachCell calls yield for each cell of a reply (RESP2): "*" twice their number, then keys and totals as "$" length, text.
func eachCell(reply []byte, yield func(key []byte, total uint64)) error {
	n, rest, ok := cutNumber(reply, '*')
	if !ok || n%2 != 0 {
		return errReply
	}
	for range n / 2 {
		var key, score []byte
		if key, rest, ok = cutString(rest); !ok {
			return errReply
		}
		if score, rest, ok = cutString(rest); !ok {
			return errReply
		}
		total, ok := parseScore(score)
		if !ok {
			return errReply
		}
		yield(key, total)
	}
	return nil
}

// cutNumber reads a line of a number behind a sign.
func cutNumber(b []byte, sign byte) (n int, rest []byte, ok bool) {
	if len(b) == 0 || b[0] != sign {
		return 0, nil, false
	}
	line, rest, ok := bytes.Cut(b[1:], []byte("\r\n"))
	if !ok || len(line) == 0 {
		return 0, nil, false
	}
	for _, c := range line {
		if c < '0' || c > '9' {
			return 0, nil, false
		}
		n = 10*n + int(c-'0')
	}
	return n, rest, true
}

func cutString(b []byte) (s, rest []byte, ok bool) {
	n, rest, ok := cutNumber(b, '$')
	if !ok || len(rest) < n+2 {
		return nil, nil, false
	}
	return rest[:n], rest[n+2:], true
}

// parseScore reads a total as Redis writes it: in digits, or, as some versions do, with an exponent where it is large.
func parseScore(b []byte) (uint64, bool) {
	n := uint64(0)
	for _, c := range b {
		if c < '0' || c > '9' || len(b) > 19 {
			f, err := strconv.ParseFloat(string(b), 64)
			if err != nil || !(f >= 0 && f < 1<<64) {
				return 0, false
			}
			return uint64(f), true
		}
		n = 10*n + uint64(c-'0')
	}
	return n, len(b) > 0
}
