package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"usaged/client"
)

const tailHelp = `Show accepted events as they were accepted, oldest first, duplicates included: of the daemon that is found by itself, or of each --url, merged by the time of acceptance. With --follow it goes on, and connects again where a connection breaks.

With --output=json every event is a line of JSON with its cursor. With --cursor-file the next run goes on behind the last event that was written: none is left out, and none comes twice unless the run was killed (kill -9, a power cut) less than a second after it wrote.`

// tailWindow is what people see first where nothing says from where on.
const tailWindow = "15m"

// tailCommand holds the flags of tail.
type tailCommand struct {
	since, after    string
	eventType, user string
	limit           int
	follow          bool
	color           string
	cursorFile      string
}

func addTail(app *kingpin.Application, _ *session, commands map[string]command) {
	c := &tailCommand{}
	cmd := app.Command("tail", tailHelp)
	cmd.Flag("since", "Begin with what was accepted at a time (2026-11-23T10:00:00Z) or so long ago (90s, 15m, 24h, 7d); 0s is now. By default "+
		tailWindow+" ago, and with --cursor-file the oldest event that is kept.").PlaceHolder("TIME").StringVar(&c.since)
	cmd.Flag("after", "Begin behind the event with this cursor.").PlaceHolder("CURSOR").StringVar(&c.after)
	cmd.Flag("type", "This event_type alone.").PlaceHolder("TYPE").StringVar(&c.eventType)
	cmd.Flag("user", "This user alone.").PlaceHolder("USER").StringVar(&c.user)
	cmd.Flag("limit", "Stop after so many events; 0 is no limit.").Short('n').Default("0").IntVar(&c.limit)
	cmd.Flag("follow", "Go on with events as they are accepted.").Short('f').BoolVar(&c.follow)
	cmd.Flag("color", "Colours: auto has them on a terminal unless $NO_COLOR is set.").Default("auto").EnumVar(&c.color, "auto", "always", "never")
	cmd.Flag("cursor-file", "File that holds how far each daemon's events were written. Made where absent.").PlaceHolder("FILE").StringVar(&c.cursorFile)
	commands[cmd.FullCommand()] = c.run
}

func (c *tailCommand) check(s *session) error {
	switch {
	case c.limit < 0:
		return usagef("--limit must not be negative")
	case c.after != "" && c.since != "":
		return usagef("--after and --since exclude each other")
	case c.after != "" && c.cursorFile != "":
		return usagef("--after and --cursor-file exclude each other: the file says where to begin")
	case c.after != "" && len(s.flagURLs) > 1:
		return usagef("--after is of one daemon: with several use --cursor-file or --since")
	}
	return nil
}

func (c *tailCommand) run(ctx context.Context, s *session) error {
	if err := c.check(s); err != nil {
		return err
	}
	cursors, err := openCursors(c.cursorFile)
	if err != nil {
		return err
	}
	replicas, err := c.replicas(s, cursors)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	m := newMerger(replicas, c.follow)
	var readers sync.WaitGroup
	for _, r := range replicas {
		readers.Go(func() { r.read(ctx, m.wake) })
	}
	out := &tailOutput{w: bufio.NewWriterSize(s.stdout, sourceBufferSize), session: s, cursors: cursors, style: c.style(s), names: len(replicas) > 1}
	err = c.pump(ctx, m, out)
	cancel()
	readers.Wait()
	for _, r := range replicas {
		r.client.Close()
	}
	return errors.Join(err, out.finish())
}

// pump writes what the merger gives, until all has come that was asked for.
func (c *tailCommand) pump(ctx context.Context, m *merger, out *tailOutput) error {
	for c.limit == 0 || out.events < c.limit {
		r, err := m.next(ctx, out.idle)
		if c.endedByHand(ctx, err) {
			return nil
		}
		if err != nil {
			return err
		}
		if r == nil {
			return nil
		}
		it := r.take()
		if c.endedByHand(ctx, it.err) {
			return nil
		}
		if it.err != nil {
			return fmt.Errorf("%s: %w", r.url, it.err)
		}
		if err := out.write(r, it); err != nil {
			return err
		}
	}
	return nil
}

// endedByHand says that there is an error because somebody has ended the command, which is how following ends.
func (c *tailCommand) endedByHand(ctx context.Context, err error) bool {
	return err != nil && c.follow && context.Cause(ctx) != nil
}

// replicas are the daemons to be read.
func (c *tailCommand) replicas(s *session, cursors *cursorFile) ([]*replica, error) {
	var list []*replica
	for one := range s.replicas() {
		patience := time.Duration(-1)
		if c.follow {
			patience = 0
		}
		api, err := one.client(reading, retrying(patience))
		if err != nil {
			return nil, err
		}
		key := api.URL()
		if one.urlSource != "--url" { // its port may differ from start to start, its directory does not
			if key, err = filepath.Abs(s.dataDir); err != nil {
				return nil, err
			}
		}
		list = append(list, &replica{url: api.URL(), key: key, client: api, query: c.query(cursors.get(key)), items: make(chan tailItem, 1024)})
	}
	return list, nil
}

// query is what is asked of a daemon of which everything up to a cursor has been written.
func (c *tailCommand) query(cursor string) client.TailQuery {
	q := client.TailQuery{
		After: c.after, Since: c.since, EventType: c.eventType, UserID: c.user, Limit: c.limit, Follow: c.follow, Progress: c.cursorFile != "",
	}
	switch {
	case cursor != "":
		q.After = cursor
	case c.after == "" && c.since == "" && c.cursorFile == "":
		q.Since = tailWindow
	}
	return q
}
