package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/go-json-experiment/json"

	"usaged/aggregator/datadir"
	"usaged/aggregator/event"
	"usaged/aggregator/journal"
)

// journalCommand looks into a journal without a daemon.
type journalCommand struct {
	dir string
}

func addJournal(app *kingpin.Application, s *session, commands map[string]command) {
	group := app.Command("journal", "Look into a journal without a daemon.")
	cat := &journalCommand{}
	cmd := group.Command("cat", "Print every accepted event as a line of JSON, oldest first, duplicates included. The daemon may run "+
		"meanwhile. Exits with 1 where events are damaged.")
	cmd.Arg("dir", "The data directory, or the journal itself.").Required().StringVar(&cat.dir)
	commands[cmd.FullCommand()] = cat.cat
	repair := &journalCommand{}
	cmd = group.Command("repair", "Replace damaged segments by ones that hold all of their whole records, and keep the originals in "+
		"damaged/. The daemon must be stopped.")
	cmd.Arg("dir", "The data directory, or the journal itself.").Required().StringVar(&repair.dir)
	commands[cmd.FullCommand()] = repair.repair
	addDrain(group, s, commands)
}

// find returns the journal and its data directory.
func (c *journalCommand) find() (journalPath, dataPath string, err error) {
	inside := filepath.Join(c.dir, datadir.Journal)
	if info, err := os.Stat(inside); err == nil && info.IsDir() {
		return inside, c.dir, nil
	}
	info, err := os.Stat(c.dir)
	if err != nil {
		return "", "", err
	}
	if !info.IsDir() {
		return "", "", fmt.Errorf("%s is a file: name the data directory", c.dir)
	}
	return c.dir, filepath.Dir(filepath.Clean(c.dir)), nil
}

// journalLine is an accepted event as journal cat prints it.
type journalLine struct {
	Seq        uint64            `json:"seq"`
	ID         string            `json:"id"`
	UserID     string            `json:"user_id"`
	Type       string            `json:"event_type"`
	Metadata   map[string]string `json:"metadata"`
	Source     string            `json:"source,omitempty"`
	CreatedAt  time.Time         `json:"created_at"`
	AcceptedAt time.Time         `json:"accepted_at"`
	Token      string            `json:"token"`
}

func (c *journalCommand) cat(ctx context.Context, s *session) (err error) {
	dir, _, err := c.find()
	if err != nil {
		return err
	}
	r, err := journal.OpenReader(dir)
	if err != nil {
		return fmt.Errorf("open journal: %w", err)
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	out := bufio.NewWriterSize(s.stdout, sourceBufferSize)
	var missing uint64
	for {
		if err := context.Cause(ctx); err != nil {
			return errors.Join(err, out.Flush())
		}
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return errors.Join(err, out.Flush())
		}
		if rec.Gap > 0 {
			missing += rec.Gap
			fmt.Fprintf(s.stderr, "usagectl: %s events before seq %d are damaged\n", thousands(rec.Gap), rec.First)
		}
		bad, err := printRecord(out, &rec)
		missing += bad
		if err != nil {
			return err
		}
	}
	if err := out.Flush(); err != nil {
		return err
	}
	if missing > 0 {
		return fmt.Errorf("%s events cannot be read: restore the journal from a backup or, where that has not been done yet, stop the daemon and run `usagectl journal repair %s`",
			thousands(missing), c.dir)
	}
	return nil
}

// printRecord prints the events of a record and returns how many of them are damaged. Blanked events are left out.
func printRecord(out io.Writer, rec *journal.Record) (damaged uint64, err error) {
	var view event.View
	for seq, entry := range rec.Each {
		if len(entry) == 0 {
			continue
		}
		if event.Parse(entry, &view) != nil {
			damaged++
			continue
		}
		e := view.Event(rec.Producer, seq)
		line, err := json.Marshal(journalLine{
			Seq:        seq,
			ID:         e.ID,
			UserID:     e.UserID,
			Type:       e.Type,
			Metadata:   e.Metadata,
			Source:     e.Source,
			CreatedAt:  e.CreatedAt,
			AcceptedAt: e.AcceptedAt,
			Token:      e.Token,
		}, json.Deterministic(true))
		if err != nil {
			return damaged, fmt.Errorf("encode event %d: %w", seq, err)
		}
		if _, err := out.Write(append(event.VisibleJSON(line), '\n')); err != nil {
			return damaged, err
		}
	}
	return damaged, nil
}

func (c *journalCommand) repair(_ context.Context, s *session) (err error) {
	dir, data, err := c.find()
	if err != nil {
		return err
	}
	lock, err := datadir.Acquire(data)
	if errors.Is(err, datadir.ErrInUse) {
		return fmt.Errorf("a daemon runs on %s: stop it before the repair", data)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Release()) }()
	repaired, err := journal.Repair(dir)
	if err != nil {
		return fmt.Errorf("repair journal: %w", err)
	}
	if s.json() {
		return printJSON(s, map[string]any{"segments": repairs(repaired)})
	}
	if len(repaired) == 0 {
		_, err := fmt.Fprintln(s.stdout, "no damage found")
		return err
	}
	for _, seg := range repaired {
		original := "the original is " + seg.Original
		if seg.Original == "" {
			original = "the file was missing"
		}
		fmt.Fprintf(s.stdout, "segment %08d: %s events kept, %s lost%s; %s\n", seg.Segment, thousands(seg.Kept), thousands(lost(seg)),
			ranges(seg.Lost), original)
	}
	return nil
}

// repairedSegment is a repaired segment in JSON output.
type repairedSegment struct {
	Segment  int             `json:"segment"`
	Kept     uint64          `json:"kept"`
	Lost     []journal.Range `json:"lost"`
	Places   int             `json:"places"`
	Original string          `json:"original"`
}

func repairs(list []journal.RepairedSegment) []repairedSegment {
	out := make([]repairedSegment, len(list))
	for i, seg := range list {
		out[i] = repairedSegment(seg)
	}
	return out
}

// lost adds up the ranges of which both ends are known.
func lost(seg journal.RepairedSegment) (n uint64) {
	for _, r := range seg.Lost {
		if r.Last >= r.First {
			n += r.Last - r.First + 1
		}
	}
	return n
}

// ranges shows lost events for people.
func ranges(list []journal.Range) string {
	var texts []string
	for _, r := range list {
		if r.Last == 0 {
			texts = append(texts, fmt.Sprintf("%d and perhaps more behind it", r.First))
		} else {
			texts = append(texts, fmt.Sprintf("%d to %d", r.First, r.Last))
		}
	}
	if len(texts) == 0 {
		return ""
	}
	return " (" + strings.Join(texts, ", ") + ")"
}
