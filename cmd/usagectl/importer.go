package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/itchyny/gojq"

	"usaged/client"
)

// item is an event on its way, encoded as a line of NDJSON.
type item struct {
	origin origin
	line   []byte
}

// origin is the record that an event was made of.
type origin struct {
	file string
	n    int
	line int
}

// sink takes batches of events. send may return before they are accepted; finish waits for all of them.
type sink interface {
	send(ctx context.Context, batch []item) error
	finish() (accepted int, err error)
}

// importer moves the events of files into a sink.
type importer struct {
	flags   *importCommand
	session *session
	mapping mapping
	sources []*source
	rejects *rejectFile

	shiftDays int
	past      bool // some events are late
	progress  *progress
	batch     []item
	bytes     int
	report    importReport
}

// importReport is what became of the records.
type importReport struct {
	Records         int            `json:"records"`
	Events          int            `json:"events"`
	Accepted        int            `json:"accepted"`
	Skipped         int            `json:"skipped"`
	Refused         int            `json:"refused"`
	RefusedByReason map[string]int `json:"refused_by_reason"`
	RejectsFile     string         `json:"rejects_file,omitempty"`
	ShiftDays       int            `json:"shift_days"`
	ExtraMetadata   []string       `json:"fields_made_metadata,omitempty"`
	Complete        bool           `json:"complete"`
	DryRun          bool           `json:"dry_run"`
	Seconds         float64        `json:"seconds"`
	EventsPerSecond float64        `json:"events_per_second"`

	unread []string // files of which a part could not be read, and why
}

func (im *importer) run(ctx context.Context) error {
	start := time.Now()
	if err := im.findShift(ctx); err != nil {
		return err
	}
	out, err := im.sink(ctx)
	if err != nil {
		return err
	}
	im.progress = newProgress(im.session.stderr, im.bytesToRead())
	err = im.readAll(ctx, out)
	if err == nil {
		err = im.flush(ctx, out)
	}
	accepted, sendErr := out.finish()
	im.progress.stop()
	if sendErr != nil {
		err = sendErr // what made reading stop
	}
	im.finishReport(accepted, err == nil, time.Since(start))
	if printErr := im.print(); printErr != nil {
		return printErr
	}
	return im.verdict(err)
}

// bytesToRead is the size of the files as they lie on disk, since the number of their records is not known.
func (im *importer) bytesToRead() (size int64) {
	for _, src := range im.sources {
		size += src.size
	}
	return size
}

func (im *importer) readAll(ctx context.Context, out sink) error {
	for _, src := range im.sources {
		if err := im.read(ctx, src, out); err != nil {
			return err
		}
	}
	return nil
}

// read imports one file. A file that cannot be read to its end is noted and does not keep the others out.
func (im *importer) read(ctx context.Context, src *source, out sink) error {
	recs, closer, err := im.flags.open(src, im.progress.step)
	if err != nil {
		if _, wrong := errors.AsType[usageError](err); wrong {
			return err
		}
		im.unread(src, err)
		return nil
	}
	defer closer.Close()
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		rec, err := recs.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			im.unread(src, err)
			return nil
		}
		if err := im.take(ctx, src, rec, out); err != nil {
			return err
		}
	}
}

func (im *importer) unread(src *source, err error) {
	im.report.unread = append(im.report.unread, fmt.Sprintf("%s: %v", src.label(), err))
}

// take maps a record and passes its events on.
func (im *importer) take(ctx context.Context, src *source, rec record, out sink) error {
	im.report.Records++
	from := origin{file: src.label(), n: rec.n, line: rec.line}
	events, err := im.mapping.events(ctx, src, rec)
	if why, ok := errors.AsType[*rejection](err); ok {
		return im.rejects.add(rejectLine{origin: from, rejection: *why, input: inputOf(rec)})
	}
	if err != nil {
		return err
	}
	if len(events) == 0 {
		im.report.Skipped++
	}
	for _, e := range events {
		im.report.Events++
		if !e.CreatedAt.IsZero() {
			e.CreatedAt = e.CreatedAt.AddDate(0, 0, im.shiftDays)
			im.past = im.past || im.session.now().Sub(e.CreatedAt) > lateAfter
		}
		line, err := encodeLine(e)
		if err != nil {
			err = im.rejects.add(rejectLine{origin: from, rejection: rejection{code: codeMapping, reason: err.Error()}})
		} else {
			err = im.push(ctx, item{origin: from, line: line}, out)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func encodeLine(e client.Event) ([]byte, error) {
	line, err := json.Marshal(e, json.Deterministic(true))
	if err != nil {
		return nil, err
	}
	return append(line, '\n'), nil
}

// inputOf shows the record that was rejected: its text where it could not be read, its JSON otherwise.
func inputOf(rec record) string {
	if rec.err != nil {
		return rec.text
	}
	data, err := gojq.Marshal(rec.value)
	if err != nil {
		return ""
	}
	return cut(data)
}

func (im *importer) push(ctx context.Context, it item, out sink) error {
	if len(im.batch) == im.flags.batch || im.bytes+len(it.line) > maxBatchBytes {
		if err := im.flush(ctx, out); err != nil {
			return err
		}
	}
	im.batch = append(im.batch, it)
	im.bytes += len(it.line)
	return nil
}

func (im *importer) flush(ctx context.Context, out sink) error {
	if len(im.batch) == 0 {
		return nil
	}
	batch := im.batch
	im.batch, im.bytes = make([]item, 0, cap(batch)), 0
	im.progress.events(len(batch))
	return out.send(ctx, batch)
}

func (im *importer) finishReport(accepted int, complete bool, took time.Duration) {
	r := &im.report
	r.Accepted = accepted
	r.DryRun = im.flags.dryRun
	r.Refused, r.RefusedByReason = im.rejects.counts()
	r.RejectsFile = im.rejects.written()
	r.ShiftDays = im.shiftDays
	r.ExtraMetadata = slices.Sorted(maps.Keys(im.mapping.extra))
	r.Complete = complete && len(r.unread) == 0
	r.Seconds = took.Seconds()
	if r.Seconds > 0 {
		r.EventsPerSecond = float64(r.Accepted) / r.Seconds
	}
}

// print writes the summary: to standard error in a dry run, whose standard output is the events.
func (im *importer) print() error {
	w := im.session.stdout
	if im.flags.dryRun {
		w = im.session.stderr
	}
	if im.session.json() {
		out := *im.session
		out.process = &process{stdout: w}
		return printJSON(&out, im.report)
	}
	r := &im.report
	t := newTable("", ">")
	t.add("records", thousands(uint64(r.Records)))
	if im.flags.dryRun {
		t.add("events", thousands(uint64(r.Events)))
	} else {
		t.add("accepted", thousands(uint64(r.Accepted)))
	}
	t.add("left out by --jq", thousands(uint64(r.Skipped)))
	t.add("refused", thousands(uint64(r.Refused)))
	t.rows = t.rows[1:] // the headings are blank
	if err := t.write(w); err != nil {
		return err
	}
	if len(r.ExtraMetadata) > 0 {
		fmt.Fprintf(w, "fields made metadata: %s\n", printable(strings.Join(r.ExtraMetadata, ", ")))
	}
	if im.flags.dryRun {
		return nil
	}
	_, err := fmt.Fprintf(w, "%.1f s, %s events/s\n", r.Seconds, thousands(uint64(r.EventsPerSecond)))
	if im.past && r.Accepted > 0 && err == nil {
		_, err = fmt.Fprintln(w, "in some minutes the daemon learns from it what to expect, by itself; at once with usagectl backfill")
	}
	return err
}

// lateAfter is how old an event is that the daemon takes for one of the past.
const lateAfter = time.Hour

// verdict says on standard error what went wrong and returns the error for the exit code.
func (im *importer) verdict(err error) error {
	w, r := im.session.stderr, &im.report
	for _, file := range r.unread {
		fmt.Fprintf(w, "usagectl: %s\n", file)
	}
	if r.Refused > 0 {
		im.rejects.describe(w)
	}
	if err != nil {
		if im.flags.ids == idsAuto && !im.flags.dryRun {
			return fmt.Errorf("the import stopped with %s events accepted; the same command goes on from there, as long as it is given "+
				"within 24 hours%s: %w", thousands(uint64(r.Accepted)), im.resumeHint(), err)
		}
		return fmt.Errorf("the import stopped with %s events accepted: %w", thousands(uint64(r.Accepted)), err)
	}
	if len(r.unread) > 0 || r.Refused > 0 && !im.flags.allowRejects {
		return errReported
	}
	return nil
}

// resumeHint keeps a resumed import on the days of the first, should midnight lie between them.
func (im *importer) resumeHint() string {
	if !im.flags.shift {
		return ""
	}
	return fmt.Sprintf(" (with --shift-days=%d for --shift-to-now)", im.shiftDays)
}
