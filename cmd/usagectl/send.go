package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/google/uuid"
	"github.com/itchyny/gojq"

	"usaged/client"
)

// maxSendBytes is what the daemon takes in one request.
const maxSendBytes = 8 << 20

// sendCommand sends a few events as one batch: all of them are accepted, or none.
type sendCommand struct {
	stdin    string
	event    map[string]any // what the flags describe, by the names of the fields
	metadata metadataFlag
	patience time.Duration
	wait     bool
}

func addSend(app *kingpin.Application, _ *session, commands map[string]command) {
	c := &sendCommand{event: map[string]any{}, metadata: metadataFlag{}}
	cmd := app.Command("send", "Send one event that the flags describe, or with - the events on standard input as one batch: JSON (an event "+
		"or an array) or NDJSON. All are accepted, or none. For files use import.")
	cmd.Arg("-", "Read events from standard input.").StringVar(&c.stdin)
	cmd.Flag("type", "event_type, such as sql_execution.").HintOptions(kindNames()...).SetValue(fieldFlag{c.event, "event_type"})
	cmd.Flag("user", "user_id; otherwise the daemon takes the token's.").SetValue(fieldFlag{c.event, "user_id"})
	cmd.Flag("id", "id; otherwise one is made.").SetValue(fieldFlag{c.event, "id"})
	cmd.Flag("source", "source.").SetValue(fieldFlag{c.event, "source"})
	cmd.Flag("created-at", "created_at, RFC 3339; otherwise the daemon's time.").PlaceHolder("TIME").SetValue(fieldFlag{c.event, "created_at"})
	cmd.Flag("meta", "A metadata key with its value; may be repeated.").PlaceHolder("KEY=VALUE").SetValue(c.metadata)
	cmd.Flag("retry-for", "How long to try again while the daemon is overloaded or restarting.").Default("10s").DurationVar(&c.patience)
	cmd.Flag("wait", "Wait until the events are counted, so that the next read shows them.").BoolVar(&c.wait)
	commands[cmd.FullCommand()] = c.run
}

// fieldFlag is a flag for a field of the event. An empty value is sent too, and refused: in a script it is a variable that was never
// set, and without the field the event would be another one.
type fieldFlag struct {
	event map[string]any
	name  string
}

func (f fieldFlag) String() string { return "" }

func (f fieldFlag) Set(text string) error {
	f.event[f.name] = text
	return nil
}

// metadataFlag collects keys and values. The parser's own map would split at colons too, and let one value go for another.
type metadataFlag map[string]any

func (m metadataFlag) String() string     { return "" }
func (m metadataFlag) IsCumulative() bool { return true }

func (m metadataFlag) Set(text string) error {
	key, value, ok := strings.Cut(text, "=")
	if !ok {
		return fmt.Errorf("%q is not KEY=VALUE", text)
	}
	if _, twice := m[key]; twice {
		return fmt.Errorf("the key %q is given twice", key)
	}
	m[key] = value
	return nil
}

func (c *sendCommand) run(ctx context.Context, s *session) error {
	events, err := c.events(s)
	if err != nil {
		return err
	}
	body, ids, err := encodeEvents(events)
	if err != nil {
		return err
	}
	if err := s.reach(ctx); err != nil {
		return err
	}
	api, err := s.client(posting, retrying(c.patience))
	if err != nil {
		return err
	}
	defer api.Close()
	accepted, err := api.Post(ctx, body)
	if err != nil {
		return describeRefusal(err, s)
	}
	done, counted := "accepted", false
	if c.wait {
		counted, err = c.awaitCount(ctx, s)
		if err != nil {
			return err
		}
	}
	if counted {
		done = "accepted and counted"
	}
	if s.json() {
		return printJSON(s, map[string]any{"accepted": accepted, "ids": ids, "counted": counted})
	}
	if len(events) > 1 {
		_, err = fmt.Fprintf(s.stdout, "%s %s events\n", done, thousands(uint64(accepted)))
		return err
	}
	_, err = fmt.Fprintf(s.stdout, "%s %s %s\n", done, printable(fmt.Sprint(events[0]["event_type"])), printable(ids[0]))
	return err
}

// awaitCount waits for the count. The events are accepted by then: where the count cannot be seen, or takes long, nothing has failed, and a
// script that sent them again would be wrong.
func (c *sendCommand) awaitCount(ctx context.Context, s *session) (counted bool, err error) {
	err = awaitCounted(ctx, s)
	if err == nil || ctx.Err() != nil {
		return err == nil, err
	}
	fmt.Fprintf(s.stderr, "usagectl: %s\n", s.explain(err))
	return false, nil
}

// events are those to be sent, by the names of their fields. Whether they are valid is the daemon's to say: it names
// every fault.
func (c *sendCommand) events(s *session) ([]map[string]any, error) {
	described := len(c.event) > 0 || len(c.metadata) > 0
	switch {
	case c.stdin != "" && c.stdin != stdinArgument:
		return nil, usagef("send takes flags, or - for events on standard input; for files use import")
	case c.stdin != "" && described:
		return nil, usagef("send takes either flags or events on standard input (-), not both")
	case c.stdin != "":
		events, err := readEvents(s.stdin)
		if err != nil {
			return nil, fmt.Errorf("standard input: %w", err)
		}
		return events, nil
	case c.event["event_type"] == nil:
		return nil, usagef("send needs --type, or - for events on standard input")
	}
	if len(c.metadata) > 0 {
		c.event["metadata"] = map[string]any(c.metadata)
	}
	return []map[string]any{c.event}, nil
}

// readEvents reads an event, an array of them, or one a line.
func readEvents(r io.Reader) ([]map[string]any, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxSendBytes+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxSendBytes {
		return nil, fmt.Errorf("more than %d bytes: use import", maxSendBytes)
	}
	recs := newJSONRecords(bytes.NewReader(bytes.TrimPrefix(data, []byte("\uFEFF"))))
	var events []map[string]any
	for {
		rec, err := recs.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = rec.err
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", rec.line, err)
		}
		e, ok := rec.value.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("line %d: %s where an event is due", rec.line, kindOf(rec.value))
		}
		events = append(events, e)
	}
	if len(events) == 0 {
		return nil, errors.New("no event")
	}
	return events, nil
}

// encodeEvents writes a batch, in which every event has an id, so that trying again is harmless.
func encodeEvents(events []map[string]any) (body []byte, ids []string, err error) {
	for _, e := range events {
		if e["id"] == nil {
			id, err := uuid.NewV7()
			if err != nil {
				return nil, nil, fmt.Errorf("make an id: %w", err)
			}
			e["id"] = id.String()
		}
		ids = append(ids, fmt.Sprint(e["id"]))
		line, err := gojq.Marshal(e) // knows the numbers that our decoder makes
		if err != nil {
			return nil, nil, fmt.Errorf("encode event: %w", err)
		}
		body = append(append(body, line...), '\n')
	}
	return body, ids, nil
}

// describeRefusal lists the faults of a refusal, one a line.
func describeRefusal(err error, s *session) error {
	problem, ok := errors.AsType[*client.Problem](err)
	if !ok || len(problem.Errors) == 0 {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "usagectl: refused, nothing was accepted: %s\n", problem.Title)
	for _, fault := range problem.Errors {
		where := fault.Pointer
		if index, rest, ok := fault.Element(); ok {
			where = fmt.Sprintf("event %d%s", index+1, rest)
		}
		fmt.Fprintf(&b, "  %s: %s\n", printable(where), printable(fault.Detail))
	}
	fmt.Fprint(s.stderr, b.String())
	return errReported
}
