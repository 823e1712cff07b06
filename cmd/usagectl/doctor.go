package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/mattn/go-runewidth"
)

// doctorCommand examines a Redis, a data directory and a daemon, and says what to do about what it finds.
type doctorCommand struct {
	redis      redisFlags
	partitions int
	retention  int
}

func addDoctor(app *kingpin.Application, s *session, commands map[string]command) {
	c := &doctorCommand{}
	cmd := app.Command("doctor", "Examine the daemon, its data directory and, with --redis.url, its Redis, and say what to do about what is "+
		"found. It changes nothing. Exits with 1 where something fails. It reads the whole journal, and goes through the keys of Redis.")
	c.redis.add(cmd, s)
	cmd.Flag("redis.partitions", "The daemon's --redis.partitions, to be compared with those of Redis; 0 is what Redis says "+
		"($USAGE_REDIS_PARTITIONS).").Default(s.env("USAGE_REDIS_PARTITIONS", "0")).IntVar(&c.partitions)
	cmd.Flag("retention.days", "The daemon's --retention.days, for estimates ($USAGE_RETENTION_DAYS).").
		Default(s.env("USAGE_RETENTION_DAYS", "30")).IntVar(&c.retention)
	commands[cmd.FullCommand()] = c.run
}

// level says how bad a finding is.
type level string

const (
	levelOK   level = "ok"
	levelWarn level = "warn" // works, and should be looked after
	levelFail level = "fail" // doesn't work, or will lose something
)

// finding is one thing that was looked at.
type finding struct {
	Level level  `json:"level"`
	Check string `json:"check"`
	Found string `json:"found"`
	// Do is what to do about it, "" where nothing is.
	Do string `json:"do,omitempty"`
}

// diagnosis is all that was found.
type diagnosis struct {
	Worst     level         `json:"worst"`
	Findings  []finding     `json:"findings"`
	Producers []producerRow `json:"producers,omitempty"`
	Memory    []memoryDay   `json:"redis_memory,omitempty"`
}

// memoryDay is what a day takes in Redis.
type memoryDay struct {
	Day          string `json:"day"`
	Keys         uint64 `json:"keys"`
	Pairs        uint64 `json:"pairs"`
	Bytes        uint64 `json:"bytes"`
	BytesPerPair uint64 `json:"bytes_per_pair"`
	IDs          uint64 `json:"ids"`
	IDBytes      uint64 `json:"id_bytes"`
}

func (d *diagnosis) ok(check, format string, args ...any) {
	d.Findings = append(d.Findings, finding{levelOK, check, fmt.Sprintf(format, args...), ""})
}

func (d *diagnosis) warn(check, found, do string) {
	d.Findings = append(d.Findings, finding{levelWarn, check, found, do})
}

func (d *diagnosis) fail(check, found, do string) {
	d.Findings = append(d.Findings, finding{levelFail, check, found, do})
}

// grade adds a finding whose advice matters only where it isn't ok.
func (d *diagnosis) grade(l level, check, found, do string) {
	if l == levelOK {
		do = ""
	}
	d.Findings = append(d.Findings, finding{l, check, found, do})
}

// limit grades a number by the values from which on it is a warning and a failure.
func limit[T int | int64 | uint64 | float64 | time.Duration](n, warn, fail T) level {
	switch {
	case n >= fail:
		return levelFail
	case n >= warn:
		return levelWarn
	default:
		return levelOK
	}
}

func (c *doctorCommand) run(ctx context.Context, s *session) (err error) {
	if err := c.redis.check(); err != nil {
		return err
	}
	if c.retention < 1 || c.partitions < 0 {
		return usagef("--retention.days must be positive, --redis.partitions must not be negative")
	}
	d := &diagnosis{}
	data := &dataDoctor{diagnosis: d, dir: s.dataDir, retention: c.retention, now: s.now, required: !c.redis.given()}
	present := data.begin()
	if c.redis.given() {
		in, err := c.redis.open()
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, in.Close()) }()
		r := &redisDoctor{diagnosis: d, in: in, partitions: c.partitions, retention: c.retention, now: s.now, own: data.identity}
		r.examine(ctx)
		data.offsets = r.offsets
	}
	// Behind Redis: what Redis has applied by then is in the journal by now.
	if present {
		data.examine(ctx)
	}
	(&daemonDoctor{diagnosis: d, session: s}).examine(ctx)
	if err := context.Cause(ctx); err != nil {
		return err
	}
	return d.report(s)
}

// report prints the findings and fails where one does.
func (d *diagnosis) report(s *session) error {
	counts := map[level]int{}
	for _, f := range d.Findings {
		counts[f.Level]++
	}
	d.Worst = levelOK
	if counts[levelWarn] > 0 {
		d.Worst = levelWarn
	}
	if counts[levelFail] > 0 {
		d.Worst = levelFail
	}
	print := d.print
	if s.json() {
		print = func(s *session, _ map[level]int) error { return printJSON(s, d) }
	}
	if err := print(s, counts); err != nil {
		return err
	}
	if d.Worst == levelFail {
		return errReported
	}
	return nil
}

func (d *diagnosis) print(s *session, counts map[level]int) error {
	t := newTable("LEVEL", "CHECK", "FOUND")
	for _, f := range d.Findings {
		lines := wrap(f.Found)
		t.add(string(f.Level), f.Check, lines[0])
		for _, line := range lines[1:] {
			t.add("", "", line)
		}
		if f.Do == "" {
			continue
		}
		for i, line := range wrap(f.Do) {
			t.add("", "", []string{"→ ", "  "}[min(i, 1)]+line)
		}
	}
	if err := t.write(s.stdout); err != nil {
		return err
	}
	if len(d.Producers) > 0 {
		fmt.Fprintln(s.stdout)
		if err := producerTable(d.Producers).write(s.stdout); err != nil {
			return err
		}
	}
	if len(d.Memory) > 0 {
		m := newTable("DAY", ">KEYS", ">TYPES × USERS", ">BYTES", ">EACH", ">IDS", ">BYTES OF IDS")
		for _, day := range d.Memory {
			m.add(day.Day, thousands(day.Keys), thousands(day.Pairs), binaryBytes(day.Bytes), thousands(day.BytesPerPair), thousands(day.IDs),
				binaryBytes(day.IDBytes))
		}
		fmt.Fprintln(s.stdout)
		if err := m.write(s.stdout); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(s.stdout, "\n%d ok, %d warn, %d fail\n", counts[levelOK], counts[levelWarn], counts[levelFail])
	return err
}

// wrap breaks a text between words into lines, at least one.
func wrap(text string) []string {
	const width = 92
	words := strings.Fields(text)
	lines := []string{""}
	for _, word := range words {
		last := &lines[len(lines)-1]
		switch {
		case *last == "":
			*last = word
		case runewidth.StringWidth(*last)+1+runewidth.StringWidth(word) > width:
			lines = append(lines, word)
		default:
			*last += " " + word
		}
	}
	return lines
}

// binaryBytes writes a size for people.
func binaryBytes(n uint64) string {
	const units = "KMGTPE"
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	size, unit := float64(n)/1024, 0
	for size >= 1024 && unit < len(units)-1 {
		size, unit = size/1024, unit+1
	}
	return fmt.Sprintf("%.1f %ciB", size, units[unit])
}

// shortly writes a duration for people, in one unit.
func shortly(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%.2f ms", d.Seconds()*1e3)
	case d < time.Second:
		return fmt.Sprintf("%.1f ms", d.Seconds()*1e3)
	case d < 2*time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d < 2*time.Hour:
		return fmt.Sprintf("%.0f minutes", d.Minutes())
	case d < 48*time.Hour:
		return fmt.Sprintf("%.0f hours", d.Hours())
	default:
		return fmt.Sprintf("%.0f days", d.Hours()/24)
	}
}

// plural writes a number with its noun.
func plural[T int | int64 | uint64](n T, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return thousands(uint64(n)) + " " + noun + "s"
}
