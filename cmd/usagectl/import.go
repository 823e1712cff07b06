package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"usaged/aggregator/event"
	"usaged/client"
)

const maxBatchBytes = 4 << 20 // half of what the daemon takes

const importHelp = `Import events from files: JSON (an array, or values that follow each other), NDJSON or CSV, plain, gzip or zstd; - is standard input.

Fields and columns named id, user_id, event_type, metadata, source and created_at are taken by their names, every other becomes metadata; with --jq the expression alone decides. Numbers and booleans in metadata become strings, null is left out. created_at is RFC 3339, the same with a blank for T or without a zone (UTC), a date (2026-11-23 or 20261123), a day number of a spreadsheet, or Unix seconds. Other numbers, and those that would lie in the future, are refused.

An event without an id is given one made of its record's text, so that an import may be interrupted and started again, and a file that has grown, was renamed or compressed adds only what is new: the daemon counts an id once within 24 hours of its acceptance. Records with the same text in one file are as many events. In different files they are one event if they have a created_at; without one, only if the files begin with the same record. With another mapping the ids stay the same: to count a file anew within 24 hours make other ids in --jq.

Records that cannot be read or that the daemon refuses cost only themselves and are listed in a file. Where it cannot be told which records an unreadable one hides, the import says that it is not complete and exits with 1.`

// importCommand holds the flags of import.
type importCommand struct {
	files        []string
	format       string
	delimiter    string
	columns      []string
	jq           string
	user         string
	eventType    string
	source       string
	ids          string
	shift        bool
	shiftDays    int
	shiftGiven   bool
	batch        int
	parallel     int
	compression  string
	patience     time.Duration
	rejects      string
	allowRejects bool
	dryRun       bool
}

func addImport(app *kingpin.Application, _ *session, commands map[string]command) {
	c := &importCommand{}
	cmd := app.Command("import", importHelp)
	cmd.Arg("file", "Files to import, in this order.").Required().StringsVar(&c.files)
	cmd.Flag("format", "json, ndjson, csv or tsv; auto goes by the file's name.").Default(formatAuto).
		EnumVar(&c.format, formatAuto, formatJSON, formatNDJSON, formatCSV, formatTSV)
	cmd.Flag("delimiter", "What separates the columns of CSV.").Default(",").StringVar(&c.delimiter)
	cmd.Flag("columns", "Names of the columns, for CSV without a line of names: a,b,c.").PlaceHolder("NAMES").
		SetValue((*commaList)(&c.columns))
	cmd.Flag("jq", "A jq expression that makes an event of a record, or null or nothing to leave it out. $file, $n (the record's number), "+
		"$line and $digest are known. CSV rows are objects of strings.").PlaceHolder("EXPR").StringVar(&c.jq)
	cmd.Flag("type", "event_type of events that have none.").StringVar(&c.eventType)
	cmd.Flag("user", "user_id of events that have none; otherwise the daemon takes the token's.").StringVar(&c.user)
	cmd.Flag("source", "source of events that have none.").StringVar(&c.source)
	cmd.Flag("ids", "auto makes ids where records have none, field does not, none sends no ids at all. Events without an id may be counted "+
		"twice when a connection breaks.").Default(idsAuto).EnumVar(&c.ids, idsAuto, idsField, idsNone)
	cmd.Flag("shift-to-now", "Move every created_at by one number of whole days, such that the last event lies before now.").BoolVar(&c.shift)
	cmd.Flag("shift-days", "Move every created_at by so many days, for example as an earlier import did.").PlaceHolder("DAYS").
		IsSetByUser(&c.shiftGiven).IntVar(&c.shiftDays)
	cmd.Flag("batch", "Events in a request.").Default("1000").IntVar(&c.batch)
	cmd.Flag("parallel", "Requests at a time.").Default("4").IntVar(&c.parallel)
	cmd.Flag("compression", "Of requests: none, gzip or zstd.").Default("none").EnumVar(&c.compression, "none", "gzip", "zstd")
	cmd.Flag("retry-for", "How long to try again while the daemon is overloaded or restarting.").Default("1m").DurationVar(&c.patience)
	cmd.Flag("rejects", "File for what was left out; by default FILE.rejected.ndjson in the working directory.").PlaceHolder("PATH").
		StringVar(&c.rejects)
	cmd.Flag("allow-rejects", "Exit with 0 even where records were left out.").BoolVar(&c.allowRejects)
	cmd.Flag("dry-run", "Print the events instead of sending them.").BoolVar(&c.dryRun)
	commands[cmd.FullCommand()] = c.run
}

// commaList is a flag of names separated by commas.
type commaList []string

func (l *commaList) Set(text string) error { *l = strings.Split(text, ","); return nil }
func (l *commaList) String() string        { return strings.Join(*l, ",") }

func (c *importCommand) check() error {
	switch {
	case c.batch < 1 || c.batch > event.MaxBatchEvents:
		return usagef("--batch must be 1 to %d", event.MaxBatchEvents)
	case c.parallel < 1 || c.parallel > 256:
		return usagef("--parallel must be 1 to 256")
	case len(c.delimiter) != 1 || strings.ContainsAny(c.delimiter, "\"\r\n"):
		return usagef("--delimiter must be one ASCII character, and neither a quote nor a line end")
	case c.shift && c.shiftGiven:
		return usagef("--shift-to-now finds the days by itself: leave out one of it and --shift-days")
	}
	for i, name := range c.files {
		if name != stdinArgument {
			continue
		}
		if i != len(c.files)-1 {
			return usagef("- (standard input) must be the last of the files")
		}
		c.files[i] = "-"
	}
	return nil
}

func (c *importCommand) run(ctx context.Context, s *session) (err error) {
	if err := c.check(); err != nil {
		return err
	}
	im := &importer{flags: c, session: s, mapping: mapping{
		ids: c.ids, user: c.user, eventType: c.eventType, source: c.source, now: s.now, values: newValueDecoder(), extra: map[string]bool{},
	}}
	if c.jq != "" {
		if im.mapping.code, err = compileJQ(c.jq); err != nil {
			return err
		}
	}
	if !c.dryRun {
		if err := s.reach(ctx); err != nil {
			return err
		}
	}
	im.rejects = newRejectFile(c.rejectsPath())
	defer func() { err = errors.Join(err, im.rejects.close()) }()
	for _, name := range c.files {
		src, err := openSource(ctx, s, name)
		if err != nil {
			return err
		}
		defer src.close()
		im.sources = append(im.sources, src)
	}
	return im.run(ctx)
}

func (c *importCommand) rejectsPath() string {
	if c.rejects != "" {
		return c.rejects
	}
	return (&source{name: c.files[0]}).label() + ".rejected.ndjson"
}

// open reads the records of a file.
func (c *importCommand) open(src *source, progress func(int)) (records, io.Closer, error) {
	format := c.format
	if format == formatAuto {
		var err error
		if format, err = src.formatOf(); err != nil {
			return nil, nil, err
		}
	}
	r, err := src.open(progress)
	if err != nil {
		return nil, nil, err
	}
	switch format {
	case formatNDJSON:
		return newLineRecords(r), r, nil
	case formatJSON:
		return newJSONRecords(r), r, nil
	}
	comma := c.delimiter[0]
	if format == formatTSV && c.delimiter == "," {
		comma = '\t'
	}
	recs, err := newCSVRecords(r, comma, c.columns)
	if err != nil {
		return nil, nil, errors.Join(err, r.Close())
	}
	return recs, r, nil
}

// sink is where the events go: to the daemon, or to standard output.
func (im *importer) sink(ctx context.Context) (sink, error) {
	c, s := im.flags, im.session
	if c.dryRun {
		return &printer{w: s.stdout}, nil
	}
	compressing := func(cfg *client.Config) {
		if c.compression != "none" {
			cfg.Compression = client.Compression(c.compression)
		}
	}
	api, err := s.client(posting, retrying(c.patience), compressing)
	if err != nil {
		return nil, err
	}
	return newUploader(ctx, api, c.parallel, im.rejects), nil
}

// printer is the sink of a dry run.
type printer struct{ w io.Writer }

func (p *printer) send(_ context.Context, b []item) error {
	for _, it := range b {
		if _, err := p.w.Write(it.line); err != nil {
			return fmt.Errorf("print events: %w", err)
		}
	}
	return nil
}

func (p *printer) finish() (accepted int, err error) { return 0, nil }
