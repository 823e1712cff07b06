package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/go-json-experiment/json"
	"golang.org/x/sync/errgroup"

	"usaged/client"
)

// benchTail measures how fast the daemon streams the events that it keeps.
type benchTail struct {
	events  int
	limit   int
	streams int
	gzip    bool
}

func addBenchTail(group *kingpin.CmdClause, commands map[string]command) {
	b := &benchTail{}
	cmd := group.Command("tail", "Read the accepted events that the daemon keeps, from the oldest on, and measure events a second and the daemon's CPU time. "+
		"Fill it with bench post before.")
	cmd.Flag("events", "Events for each stream; 0 is all.").Default("0").IntVar(&b.events)
	cmd.Flag("limit", "Events of a request.").Default("1000000").IntVar(&b.limit)
	cmd.Flag("streams", "Streams at a time, each with all of the events.").Default("1").IntVar(&b.streams)
	cmd.Flag("gzip", "Have the daemon compress.").BoolVar(&b.gzip)
	commands[cmd.FullCommand()] = b.run
}

// tailReport is what bench tail found.
type tailReport struct {
	Streams         int     `json:"streams"`
	Events          uint64  `json:"events"`
	Bytes           uint64  `json:"bytes"`
	Seconds         float64 `json:"seconds"`
	EventsPerSecond float64 `json:"events_per_second"`
	DriverCPU       float64 `json:"driver_cpu_seconds_per_million"`
	DaemonCPU       float64 `json:"daemon_cpu_seconds_per_million,omitzero"`
}

func (b *benchTail) run(ctx context.Context, s *session) error {
	if b.events < 0 || b.limit < 1 || b.streams < 1 || b.streams > 64 {
		return usagef("--events must not be negative, --limit must be positive, --streams must be 1 to 64")
	}
	c, err := s.client(reading)
	if err != nil {
		return err
	}
	defer c.Close()
	token, err := s.token(reading)
	if err != nil {
		return err
	}
	before, driver, start := readVitals(ctx, c), driverCPU(), time.Now()
	totals := make([]tailTotal, b.streams)
	group, readCtx := errgroup.WithContext(ctx)
	for i := range totals {
		group.Go(func() error { return b.read(readCtx, c.URL(), token, &totals[i]) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	report := &tailReport{Streams: b.streams, Seconds: time.Since(start).Seconds()}
	driver = driverCPU() - driver
	after := readVitals(ctx, c)
	for _, t := range totals {
		report.Events += t.events
		report.Bytes += t.bytes
	}
	report.EventsPerSecond = float64(report.Events) / report.Seconds
	report.DriverCPU = perMillion(driver.Seconds(), report.Events)
	if before.known && after.known {
		report.DaemonCPU = perMillion(after.cpuSeconds-before.cpuSeconds, report.Events)
	}
	return report.print(s)
}

// tailTotal is what one stream has read.
type tailTotal struct {
	events, bytes uint64
	cursor        string
	end           bool
}

// read reads one answer after the other. The lines are counted and not decoded, since it is the daemon that is measured.
func (b *benchTail) read(ctx context.Context, base, token string, t *tailTotal) error {
	for !t.end && (b.events == 0 || t.events < uint64(b.events)) {
		limit := b.limit
		if b.events > 0 {
			limit = min(limit, b.events-int(t.events))
		}
		query := url.Values{"limit": {strconv.Itoa(limit)}, "progress": {"true"}, "after": {t.cursor}}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/api/v1/usage/events?"+query.Encode(), nil)
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+token)
		if b.gzip {
			req.Header.Set("Accept-Encoding", "gzip") // set here, net/http leaves the answer packed
		}
		resp, err := (&http.Client{Transport: &http.Transport{DisableCompression: !b.gzip}}).Do(req)
		if err != nil {
			return err
		}
		if err := errors.Join(b.count(resp, t), resp.Body.Close()); err != nil {
			return err
		}
	}
	return nil
}

func (b *benchTail) count(resp *http.Response, t *tailTotal) error {
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the daemon answers %s", resp.Status)
	}
	body, err := unpack(resp)
	if err != nil {
		return err
	}
	lines := bufio.NewReaderSize(body, 1<<20)
	var last client.Accepted
	var event []byte // the last one
	for {
		line, err := lines.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		t.bytes += uint64(len(line))
		if bytes.Contains(line[:min(len(line), 100)], []byte(`"accepted_at":`)) {
			t.events++
			event = append(event[:0], line...)
			continue
		}
		if len(line) > 1 {
			if err := json.Unmarshal(line, &last); err != nil {
				return err
			}
		}
	}
	if last.Cursor == "" { // the limit was reached, behind the last event
		if err := json.Unmarshal(event, &last); err != nil {
			return err
		}
	}
	t.cursor, t.end = last.Cursor, last.End
	return nil
}

func (r *tailReport) print(s *session) error {
	if s.json() {
		return printJSON(s, r)
	}
	t := &table{}
	t.add("events", fmt.Sprintf("%s in %.1f s, %s", thousands(r.Events), r.Seconds, plural(uint64(r.Streams), "stream")))
	t.add("events/s", thousands(uint64(r.EventsPerSecond)))
	t.add("MB/s", fmt.Sprintf("%.0f", float64(r.Bytes)/r.Seconds/1e6))
	t.add("driver", fmt.Sprintf("%.2f CPU-s per million events", r.DriverCPU))
	if r.DaemonCPU > 0 {
		t.add("daemon", fmt.Sprintf("%.2f CPU-s per million events", r.DaemonCPU))
	} else {
		t.add("daemon", "unknown: /metrics does not tell")
	}
	return t.write(s.stdout)
}

// unpack returns the body without its compression.
func unpack(resp *http.Response) (io.Reader, error) {
	if resp.Header.Get("Content-Encoding") != "gzip" {
		return resp.Body, nil
	}
	return gzip.NewReader(resp.Body)
}
