package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"usaged/tools/waittest"
)

// realEnv names the directory of the real Prometheis, which make receivers fills.
const realEnv = "USAGE_TEST_PROMETHEUS"

const (
	debianPrometheus = "prometheus-debian" // 2.42 in Debian 12
	modulePrometheus = "prometheus"        // the version that go.mod names
)

// realPrometheus is a process of a Prometheus that is not ours. It may be stopped and started any number of times.
type realPrometheus struct {
	tb      testing.TB
	program string
	dir     string
	address string
	args    []string
	run     *process
}

// newPrometheus prepares one with a configuration file. It is a receiver of remote write.
func newPrometheus(t testing.TB, program, config string, args ...string) *realPrometheus {
	t.Helper()
	bin := os.Getenv(realEnv)
	if bin == "" {
		t.Skip("make receivers runs this")
	}
	path := filepath.Join(bin, program)
	if _, err := os.Stat(path); err != nil {
		missing(t, "no real Prometheus: %v: make receivers says how to get it", err)
	}
	p := &realPrometheus{tb: t, program: path, dir: t.TempDir(), address: freeAddress(t)}
	file := filepath.Join(p.dir, "prometheus.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	p.args = append([]string{
		"--config.file=" + file, "--storage.tsdb.path=" + p.tsdb(), "--web.listen-address=" + p.address, "--web.enable-remote-write-receiver",
	}, args...)
	t.Cleanup(func() {
		if p.run != nil {
			p.stop()
		}
		if t.Failed() {
			t.Logf("log of %s:\n%s", program, p.log())
		}
	})
	return p
}

// freeAddress finds a port for a process that must come back on it.
func freeAddress(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

func (p *realPrometheus) tsdb() string     { return filepath.Join(p.dir, "data") }
func (p *realPrometheus) logFile() string  { return filepath.Join(p.dir, "log") }
func (p *realPrometheus) writeURL() string { return "http://" + p.address + "/api/v1/write" }

// start starts it and waits until it is ready.
func (p *realPrometheus) start() {
	p.tb.Helper()
	log, err := os.OpenFile(p.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.tb.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(p.program, p.args...)
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = log, log, childAttr()
	p.run = spawn(p.tb, cmd)
	eventually(p.tb, "a Prometheus is ready", func() error {
		select {
		case <-p.run.exited:
			p.tb.Fatalf("it exited with %d:\n%s", p.run.code, p.log())
		default:
		}
		_, err := p.get("/-/ready")
		return err
	})
}

func (p *realPrometheus) stop() {
	p.tb.Helper()
	_ = p.run.cmd.Process.Signal(syscall.SIGTERM) // it may be gone
	if !waittest.Closed(p.run.exited) {
		_ = p.run.cmd.Process.Kill()
		p.tb.Error("a Prometheus does not stop")
	}
	p.run = nil
}

func (p *realPrometheus) log() string {
	data, err := os.ReadFile(p.logFile())
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// complaints returns the warnings and errors in its log, of either form.
func (p *realPrometheus) complaints() (lines []string) {
	for line := range strings.Lines(p.log()) {
		if l := strings.ToLower(line); strings.Contains(l, "level=warn") || strings.Contains(l, "level=error") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

func (p *realPrometheus) get(path string) ([]byte, error) {
	resp, err := http.Get("http://" + p.address + path)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: status %d: %.300s", path, resp.StatusCode, body)
	}
	return body, err
}

// value asks for an expression of one series.
func (p *realPrometheus) value(expr string) (float64, error) {
	body, err := p.get("/api/v1/query?query=" + url.QueryEscape(expr))
	if err != nil {
		return 0, err
	}
	var answer struct{ Data struct{ Result []promSeries } }
	if err := json.NewDecoder(bytes.NewReader(body)).Decode(&answer); err != nil {
		return 0, err
	}
	if n := len(answer.Data.Result); n != 1 {
		return 0, fmt.Errorf("%s is of %d series", expr, n)
	}
	var value float64
	_, err = fmt.Sscan(fmt.Sprint(answer.Data.Result[0].Value[1]), &value)
	return value, err
}

// version says what it is.
func (p *realPrometheus) version() string {
	out, err := exec.Command(p.program, "--version").CombinedOutput()
	if err != nil {
		return err.Error()
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}

// stored is everything in a TSDB: series → time in milliseconds → value, bit by bit.
type stored map[string]map[int64]string

// readTSDB reads a TSDB that nobody has open.
func readTSDB(t testing.TB, dir string) (numbers, histograms stored) {
	t.Helper()
	db, err := tsdb.OpenDBReadOnly(dir, t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	querier, err := db.Querier(math.MinInt64, math.MaxInt64)
	if err != nil {
		t.Fatal(err)
	}
	defer querier.Close()
	numbers, histograms = stored{}, stored{}
	set := querier.Select(t.Context(), false, nil, labels.MustNewMatcher(labels.MatchRegexp, "__name__", ".+"))
	for set.Next() {
		series := set.At()
		name, it := series.Labels().String(), series.Iterator(nil)
		for kind := it.Next(); kind != chunkenc.ValNone; kind = it.Next() {
			switch kind {
			case chunkenc.ValFloat:
				at, v := it.At()
				numbers.add(name, at, fmt.Sprintf("%x", math.Float64bits(v)))
			case chunkenc.ValHistogram:
				at, h := it.AtHistogram(nil)
				histograms.add(name, at, h.ToFloat(nil).String())
			default:
				at, h := it.AtFloatHistogram(nil)
				histograms.add(name, at, h.String())
			}
		}
		if err := it.Err(); err != nil {
			t.Fatal(err)
		}
	}
	if err := set.Err(); err != nil {
		t.Fatal(err)
	}
	return numbers, histograms
}

func (s stored) add(series string, at int64, value string) {
	if s[series] == nil {
		s[series] = map[int64]string{}
	}
	s[series][at] = value
}

func (s stored) count() (n int) {
	for _, samples := range s {
		n += len(samples)
	}
	return n
}

// lacking returns what of s is not in other, or is different there.
func (s stored) lacking(other stored) (list []string) {
	for series, samples := range s {
		for at, v := range samples {
			if got, ok := other[series][at]; !ok || got != v {
				list = append(list, fmt.Sprintf("%s at %s: %s, %q there", series, time.UnixMilli(at).UTC().Format("15:04:05.000"), v, got))
			}
		}
	}
	return list
}
