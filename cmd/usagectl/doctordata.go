package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"usaged/aggregator/datadir"
	"usaged/aggregator/durable"
	"usaged/aggregator/journal"
	"usaged/aggregator/store/redis"
	"usaged/api/auth"
)

const (
	identityName = "producer.json"

	// graceDays is how much longer than the retention the daemon keeps its journal.
	graceDays = 3
	// A full disk makes the daemon refuse events: these are two segments of a journal, and twenty.
	scarceBytes = 128 << 20
	littleBytes = 1280 << 20
)

// identityFile is what producer.json says: who the data directory counts as.
type identityFile struct {
	Session   uint64 `json:"session"`
	Fenced    bool   `json:"fenced"`
	Shared    bool   `json:"shared"`
	Producers []struct {
		ID   string   `json:"id"`
		From []uint64 `json:"from"`
	} `json:"producers"`
}

// readIdentity returns nil where the file isn't there.
func readIdentity(dir string) (*identityFile, error) {
	path := filepath.Join(dir, identityName)
	id := &identityFile{}
	_, err := durable.Format{Version: 2, Plain: 1}.LoadJSON(path, id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if len(id.Producers) == 0 {
		return nil, fmt.Errorf("%s is %w: it names no producer", path, durable.ErrDamaged)
	}
	return id, nil
}

func (id *identityFile) has(producer string) bool {
	if id == nil {
		return false
	}
	for _, p := range id.Producers {
		if p.ID == producer {
			return true
		}
	}
	return false
}

// last is the producer that new events count under.
func (id *identityFile) last() string { return id.Producers[len(id.Producers)-1].ID }

func (id *identityFile) partitions() int { return len(id.Producers[0].From) }

// dataDoctor examines a data directory.
type dataDoctor struct {
	*diagnosis
	dir       string
	retention int
	now       func() time.Time
	// required says that there must be one: nothing else is examined in depth.
	required bool
	identity *identityFile
	// offsets are what Redis knows of the producers, nil where it wasn't asked.
	offsets map[string]redis.ProducerState
}

// begin looks whether there is a data directory, and whose it is.
func (d *dataDoctor) begin() (present bool) {
	const check = "data directory"
	entries, err := os.ReadDir(d.dir)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !d.required:
		d.warn(check, d.dir+" is not there: not examined", "nothing, or name the directory of a daemon on this machine with --data.dir")
		return false
	case err != nil:
		d.fail(check, err.Error(), "name the directory of a daemon on this machine with --data.dir, and run this as its user")
		return false
	case len(entries) == 0:
		d.warn(check, d.dir+" is empty: no daemon has used it", "start the daemon, or name another with --data.dir")
		return false
	}
	d.ok(check, "%s", d.dir)
	if d.identity, err = readIdentity(d.dir); err != nil {
		d.fail("producer id", err.Error(), "restore it from a backup together with the journal")
	}
	return true
}

func (d *dataDoctor) examine(ctx context.Context) {
	found := d.journal(ctx)
	d.disk(found)
	d.retained(found)
	d.producer(found)
	d.checkpoints(found)
	d.database()
	d.tokens()
}

// tokens looks who can get at the tokens file of the directory. One elsewhere is not known here.
func (d *dataDoctor) tokens() {
	const check = "tokens file"
	path := filepath.Join(d.dir, auth.TokensFile)
	if _, err := os.Stat(path); err != nil {
		return // it is named by --auth.tokens-file, and the daemon warns
	}
	if how := auth.Exposed(path); how != "" {
		d.warn(check, how, "chmod 0640 "+path)
		return
	}
	d.ok(check, "its owner and group alone can get at it")
}

// journalState is what a journal holds.
type journalState struct {
	readable    bool
	segments    []int
	bytes       int64
	damaged     int // originals that a repair has kept
	first, last uint64
	from, to    time.Time // of the first and the last event
	lost        uint64
}

func (d *dataDoctor) journal(ctx context.Context) *journalState {
	const check = "journal"
	dir := filepath.Join(d.dir, datadir.Journal)
	j, err := readJournal(ctx, dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		d.warn(check, "there is none in "+d.dir+": no daemon has used it", "start the daemon, or name another directory with --data.dir")
		return j
	case err != nil:
		d.fail(check, err.Error(), "run this as the user of the daemon, and look at the disk")
		return j
	case j.lost > 0:
		d.fail(check, fmt.Sprintf("%s cannot be read; %s, %s", plural(j.lost, "event"), plural(len(j.segments), "segment"), binaryBytes(uint64(j.bytes))),
			"stop the daemon and restore the segment from a backup, or run `usagectl journal repair "+d.dir+"`")
		return j
	}
	found := fmt.Sprintf("%s, %s, ", plural(len(j.segments), "segment"), binaryBytes(uint64(j.bytes)))
	if j.last == 0 {
		found += "no events"
	} else {
		found += fmt.Sprintf("events %s (%s) to %s (%s)", thousands(j.first), j.from.UTC().Format(time.RFC3339), thousands(j.last), j.to.UTC().Format(time.RFC3339))
	}
	if j.damaged > 0 {
		found += fmt.Sprintf("; %s of repaired segments in damaged/", plural(j.damaged, "original"))
	}
	d.ok(check, "%s", found)
	return j
}

// readJournal reads the whole of a journal.
func readJournal(ctx context.Context, dir string) (j *journalState, err error) {
	j = &journalState{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return j, err
	}
	for _, e := range entries {
		var index int
		if n, err := fmt.Sscanf(e.Name(), "%08d", &index); n != 1 || err != nil || len(e.Name()) != 8 {
			continue
		}
		j.segments = append(j.segments, index)
		if info, err := e.Info(); err == nil { // else it has been removed meanwhile
			j.bytes += info.Size()
		}
	}
	if originals, err := os.ReadDir(filepath.Join(dir, "damaged")); err == nil {
		j.damaged = len(originals)
	}
	if len(j.segments) == 0 {
		return j, nil
	}
	r, err := journal.OpenReader(dir)
	if err != nil {
		return j, fmt.Errorf("open journal: %w", err)
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return j, j.read(ctx, r)
}

func (j *journalState) read(ctx context.Context, r *journal.Reader) error {
	for ctx.Err() == nil {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) || errors.Is(err, journal.ErrGone) { // the daemon deletes what is past its time
			break
		}
		if err != nil {
			return err
		}
		j.lost += rec.Gap
		if rec.N == 0 {
			continue
		}
		if j.last == 0 {
			j.first, j.from = rec.First, rec.At
		}
		j.last, j.to = rec.First+uint64(rec.N)-1, rec.At
	}
	j.readable = ctx.Err() == nil
	return nil
}

func (d *dataDoctor) disk(j *journalState) {
	const check = "disk"
	var st syscall.Statfs_t
	if err := syscall.Statfs(d.dir, &st); err != nil {
		d.warn(check, "not known: "+err.Error(), "look at it with df")
		return
	}
	free, size := st.Bavail*uint64(st.Bsize), st.Blocks*uint64(st.Bsize)
	found := fmt.Sprintf("%s of %s free", binaryBytes(free), binaryBytes(size))
	const do = "make room or enlarge the disk; when it is full POST answers 503, and nothing that was accepted is lost"
	switch {
	case free < scarceBytes:
		d.fail(check, found, do)
	case free < littleBytes:
		d.warn(check, found, do)
	default:
		d.ok(check, "%s", found)
	}
	span := j.to.Sub(j.from)
	if span < 24*time.Hour { // too short to tell
		return
	}
	whole := uint64(float64(j.bytes) / span.Hours() * 24 * float64(d.retention+graceDays))
	if whole > uint64(j.bytes)+free {
		d.warn(check, fmt.Sprintf("the journal will take %s for %d days at its present rate, and has %s", binaryBytes(whole), d.retention+graceDays,
			binaryBytes(uint64(j.bytes)+free)), "enlarge the disk, lower --retention.days, or set --retention.size")
	}
}

func (d *dataDoctor) retained(j *journalState) {
	if j.last == 0 {
		return
	}
	age := d.now().Sub(j.from)
	found := fmt.Sprintf("the oldest event is %s old; the daemon keeps them for %d days", shortly(max(0, age)), d.retention+graceDays)
	const dayAndSegment = 2 * 24 * time.Hour
	if age > time.Duration(d.retention+graceDays)*24*time.Hour+dayAndSegment {
		d.warn("retention", found, "see that the daemon runs and applies: it deletes a segment when that is applied and in a checkpoint; or "+
			"name the right --retention.days")
		return
	}
	d.ok("retention", "%s", found)
}

func (d *dataDoctor) producer(j *journalState) {
	const check = "producer id"
	id := d.identity
	if id == nil {
		return
	}
	found := fmt.Sprintf("%s, session %d", id.last(), id.Session)
	if more := len(id.Producers) - 1; more > 0 {
		found += fmt.Sprintf(", and %s from before", plural(more, "id"))
	}
	if id.Fenced {
		d.fail(check, found+": another process has taken it over", "stop the other one, which runs on a copy of this directory, and restart this "+
			"daemon: it goes on under a new id, and nothing is counted twice")
		return
	}
	if id.Shared {
		d.ok(check, "%s; another directory has counted under one of them, since one is a copy of the other", found)
	} else {
		d.ok(check, "%s", found)
	}
	if d.offsets != nil {
		d.compare(j)
	}
}

// compare holds what Redis has applied against the journal.
func (d *dataDoctor) compare(j *journalState) {
	const check = "redis lag"
	p, known := d.offsets[d.identity.last()]
	behind := j.last - min(p.Offset, j.last)
	switch {
	case !known && j.last > 0:
		d.warn(check, "Redis doesn't know the producer of this data directory", "start the daemon with this --redis.url; it applies its whole journal")
	case !known || !j.readable || j.last == 0:
	case p.Session > d.identity.Session:
		d.fail(check, fmt.Sprintf("Redis has session %d of this producer, the data directory %d: another process counts under its id", p.Session,
			d.identity.Session), "stop the other one, which runs on a copy of this directory")
	case highest(p.Offsets) > j.last:
		d.fail(check, fmt.Sprintf("Redis has applied event %s of this producer, the journal ends at %s: it was restored from a snapshot or copied",
			thousands(highest(p.Offsets)), thousands(j.last)), "restart the daemon: it counts new events under a new id; those behind the "+
			"snapshot are counted and no longer in a journal")
	case behind > manyEvents:
		d.warn(check, fmt.Sprintf("%s behind the journal", plural(behind, "event")), "see that the daemon runs and what its log says of the store")
	default:
		d.ok(check, "%s behind the journal", plural(behind, "event"))
	}
}

func highest(offsets []uint64) (n uint64) {
	for _, offset := range offsets {
		n = max(n, offset)
	}
	return n
}

func (d *dataDoctor) checkpoints(j *journalState) {
	const check = "checkpoints"
	entries, err := os.ReadDir(filepath.Join(d.dir, datadir.Checkpoints))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.fail(check, err.Error(), "run this as the user of the daemon")
		return
	}
	newest, written, n := -1, time.Time{}, 0
	for _, e := range entries {
		var index int
		name, ok := strings.CutSuffix(e.Name(), ".json")
		if c, err := fmt.Sscanf(name, "%08d", &index); !ok || c != 1 || err != nil {
			continue
		}
		n++
		if info, err := e.Info(); err == nil && index > newest {
			newest, written = index, info.ModTime()
		}
	}
	// The last segment is being written, and the one before it may have ended just now.
	missing := 0
	for _, segment := range j.segments {
		if segment > newest {
			missing++
		}
	}
	switch {
	case missing > 2:
		d.warn(check, fmt.Sprintf("%s behind the newest one", plural(missing-1, "segment")), "see that the daemon runs and applies: segments without "+
			"a checkpoint are kept, whatever the retention")
	case n == 0:
		d.ok(check, "none yet: the first comes when a segment is full, or at midnight UTC")
	default:
		d.ok(check, "%s, the newest %s old, of segment %08d", plural(n, "file"), shortly(max(0, d.now().Sub(written))), newest)
	}
}

func (d *dataDoctor) database() {
	const check = "database"
	size := int64(0)
	for _, suffix := range []string{"", "-wal"} {
		if info, err := os.Stat(filepath.Join(d.dir, datadir.Database+suffix)); err == nil {
			size += info.Size()
		}
	}
	switch {
	case size > 0 && d.offsets != nil:
		d.ok(check, "%s of SQLite from before Redis, which nobody reads: it may be deleted", binaryBytes(uint64(size)))
	case size > 0:
		d.ok(check, "SQLite, %s", binaryBytes(uint64(size)))
	}
}
