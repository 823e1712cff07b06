// Package docs_test holds the README and the pages beside it to what they say: examples are run, flags, paths, codes, metrics,
// tests and links are looked up.
package docs_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/itchyny/gojq"
	"go.yaml.in/yaml/v3"

	"usaged/aggregator/store/redis"
	"usaged/api"
	"usaged/api/auth"
	"usaged/exporter/remotewrite"
	"usaged/tools/waittest"
)

const readme = "../README.md"

var (
	binDir   string
	buildErr error
	build    sync.Once
)

func TestMain(m *testing.M) {
	code := m.Run()
	if binDir != "" {
		os.RemoveAll(binDir)
	}
	os.Exit(code)
}

// bin returns the path of a binary, built once.
func bin(t *testing.T, name string) string {
	t.Helper()
	build.Do(func() {
		if binDir, buildErr = os.MkdirTemp("", "usaged-docs-"); buildErr != nil {
			return
		}
		if out, err := exec.Command("go", "build", "-o", binDir, "usaged/cmd/usaged", "usaged/cmd/usagectl").CombinedOutput(); err != nil {
			buildErr = fmt.Errorf("build: %w\n%s", err, out)
		}
	})
	if buildErr != nil {
		t.Fatal(buildErr)
	}
	return filepath.Join(binDir, name)
}

// need fails or skips a test that this machine lacks a program or file for.
func need(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// sources returns the text of all files that the patterns match.
func sources(t *testing.T, patterns ...string) string {
	t.Helper()
	var text strings.Builder
	for _, pattern := range patterns {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text.WriteString(read(t, file))
		}
	}
	return text.String()
}

// pages returns the README, the changelog and all pages under docs.
func pages(t *testing.T) []string {
	t.Helper()
	list := []string{readme, "../CHANGELOG.md", "../SECURITY.md"}
	for _, pattern := range []string{"*.md", "*/*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, found...)
	}
	return list
}

// section returns what stands in a page under a heading of the second level.
func section(t *testing.T, page, heading string) string {
	t.Helper()
	_, text, found := strings.Cut(read(t, page), "\n## "+heading+"\n")
	if !found {
		t.Fatalf("%s has no section %q", page, heading)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	return text
}

// rows returns the cells of the tables in text, without their heads.
func rows(text string) (list [][]string) {
	inside := false
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case !strings.HasPrefix(line, "|"):
			inside = false
		case strings.HasPrefix(line, "| ---"):
			inside = true
		case inside:
			var cells []string
			line = strings.TrimSuffix(strings.TrimPrefix(line, "|"), "|")
			for cell := range strings.SplitSeq(strings.ReplaceAll(line, `\|`, ""), "|") {
				cells = append(cells, strings.TrimSpace(cell))
			}
			list = append(list, cells)
		}
	}
	return list
}

// blocks returns the fenced blocks of a language in a page.
func blocks(t *testing.T, page, language string) (list []string) {
	t.Helper()
	for _, m := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(read(t, page), -1) {
		list = append(list, m[1])
	}
	return list
}

var link = regexp.MustCompile(`\]\(([^)\s]+)\)`)

func TestLinksResolve(t *testing.T) {
	t.Parallel()
	for _, page := range pages(t) {
		for _, m := range link.FindAllStringSubmatch(read(t, page), -1) {
			target, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			path := page
			if target != "" {
				path = filepath.Join(filepath.Dir(page), target)
			}
			if _, err := os.Stat(path); err != nil {
				t.Errorf("%s links to %s: %v", page, m[1], err)
			} else if anchor != "" && !slices.Contains(anchors(t, path), anchor) {
				t.Errorf("%s links to %s, which has no such heading", page, m[1])
			}
		}
	}
}

func anchors(t *testing.T, page string) (list []string) {
	t.Helper()
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(read(t, page), -1) {
		name := regexp.MustCompile(`[^a-z0-9 -]`).ReplaceAllString(strings.ToLower(m[1]), "")
		list = append(list, strings.ReplaceAll(name, " ", "-"))
	}
	return list
}

// TestPromisesHaveTests expects each link whose text is the name of a test to lead to the file with that test, and each
// promise to have one.
func TestPromisesHaveTests(t *testing.T) {
	t.Parallel()
	promises := regexp.MustCompile(`(?m)^\d\. `).Split(section(t, readme, "What it guarantees"), -1)[1:]
	if len(promises) != 7 {
		t.Errorf("%d promises, want 7", len(promises))
	}
	for _, promise := range promises {
		tests := regexp.MustCompile(`\[(Test\w+)\]\(([^)]+)\)`).FindAllStringSubmatch(promise, -1)
		if len(tests) == 0 {
			t.Errorf("no test for: %s", promise)
		}
		for _, m := range tests {
			if !strings.Contains(read(t, filepath.Join("..", m[2])), "func "+m[1]+"(t ") {
				t.Errorf("%s has no %s", m[2], m[1])
			}
		}
	}
}

// TestNamedTestsExist expects each link whose text is names of tests to lead to the file with those tests.
func TestNamedTestsExist(t *testing.T) {
	t.Parallel()
	links := regexp.MustCompile(`\[((?:Test|Fuzz)\w+(?:, (?:Test|Fuzz)\w+)*)\]\(([^)]+)\)`)
	for _, page := range pages(t) {
		for _, m := range links.FindAllStringSubmatch(read(t, page), -1) {
			text := read(t, filepath.Join(filepath.Dir(page), m[2]))
			for _, name := range strings.Split(m[1], ", ") {
				if !strings.Contains(text, "func "+name+"(") {
					t.Errorf("%s: %s has no %s", page, m[2], name)
				}
			}
		}
	}
}

// TestFlagTable compares the README's table of flags with what the daemon says.
func TestFlagTable(t *testing.T) {
	t.Parallel()
	out, err := exec.Command(bin(t, "usaged"), "--help").Output()
	if err != nil {
		t.Fatal(err)
	}
	type flag struct{ Env, Default string }
	want := map[string]flag{}
	flagLine := regexp.MustCompile(`^ {2,6}(?:-\w, )?--(?:\[no-\])?([a-z][a-z.-]*)(?:=(\S+))?`)
	name := ""
	for line := range strings.Lines(string(out)) {
		if m := flagLine.FindStringSubmatch(line); m != nil {
			name = m[1]
			value := strings.Trim(m[2], `"`)
			if value == strings.ToUpper(value) && strings.ContainsAny(value, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") {
				value = "" // a placeholder
			}
			want[name] = flag{Default: value}
		}
		if m := regexp.MustCompile(`\$(USAGE_\w+)`).FindStringSubmatch(line); m != nil {
			want[name] = flag{Env: m[1], Default: want[name].Default}
		}
	}
	delete(want, "help")
	delete(want, "version")
	got := map[string]flag{}
	for _, row := range rows(section(t, readme, "Configuration")) {
		f := flag{Env: strings.Trim(row[1], "`")}
		if value := strings.Trim(row[2], "`"); value != row[2] && !strings.HasPrefix(value, "<data>") {
			f.Default = value
		}
		got[strings.Trim(row[0], "`-")] = f
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("--help (-) and the README's table (+) differ:\n%s", diff)
	}
}

// TestFlagsExist looks up the flags that the pages mention.
func TestFlagsExist(t *testing.T) {
	t.Parallel()
	var known []string
	for _, args := range [][]string{{"usaged", "--help"}, {"usagectl", "--help-long"}} {
		out, err := exec.Command(bin(t, args[0]), args[1]).Output()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`--(?:\[no-\])?([a-z][a-z.-]*[a-z])`).FindAllStringSubmatch(string(out), -1) {
			known = append(known, m[1])
		}
	}
	mention := regexp.MustCompile(`bin/(?:usaged|usagectl)\b[^\n|]*?--([a-z][a-z.-]*[a-z])|` + "`--([a-z][a-z.-]*[a-z])")
	for _, page := range pages(t) {
		for _, m := range mention.FindAllStringSubmatch(read(t, page), -1) {
			if name := m[1] + m[2]; !slices.Contains(known, name) {
				t.Errorf("%s mentions --%s, which no binary has", page, name)
			}
		}
	}
}

func TestCommandTable(t *testing.T) {
	t.Parallel()
	out, err := exec.Command(bin(t, "usagectl"), "--help-long").Output()
	if err != nil {
		t.Fatal(err)
	}
	_, commands, _ := strings.Cut(string(out), "\nCommands:\n")
	var want, got []string
	for _, m := range regexp.MustCompile(`(?m)^([a-z]+(?: [a-z]+)?)\b`).FindAllStringSubmatch(commands, -1) {
		if m[1] != "help" {
			want = append(want, m[1])
		}
	}
	for _, row := range rows(section(t, readme, "usagectl")) {
		for name := range strings.SplitSeq(row[0], ", ") {
			got = append(got, strings.Trim(name, "`"))
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("usagectl --help-long (-) and the README's table (+) differ:\n%s", diff)
	}
}

// openAPI is what we look at in the description of the API.
type openAPI struct {
	Paths      map[string]map[string]any
	Components struct {
		Schemas struct {
			Problem struct {
				Properties struct {
					Code struct{ Enum []string }
				}
			} `yaml:"Problem"`
		}
	}
}

func description(t *testing.T) (d openAPI) {
	t.Helper()
	if err := yaml.Unmarshal([]byte(read(t, "../api/openapi.yaml")), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestPathsExist(t *testing.T) {
	t.Parallel()
	paths := description(t).Paths
	table := section(t, readme, "HTTP API")
	mentioned := map[string]bool{}
	for _, m := range regexp.MustCompile("`(GET|POST|DELETE|PUT) (/[^`?]*)`").FindAllStringSubmatch(table, -1) {
		mentioned[m[2]] = true
		if paths[m[2]][strings.ToLower(m[1])] == nil {
			t.Errorf("the README has %s %s, openapi.yaml does not", m[1], m[2])
		}
	}
	for path := range paths {
		if !mentioned[path] && path != "/" && path != "/api/v1/openapi.yaml" && !strings.Contains(path, "{") {
			t.Errorf("openapi.yaml has %s, the README does not", path)
		}
	}
	for _, page := range pages(t) {
		for _, m := range regexp.MustCompile(`(?:/prometheus|example\.com(?::\d+)?)?/api/v1/[a-z{}/.-]*[a-z}]|/-/[a-z]+`).FindAllString(read(t, page), -1) {
			if paths[m] == nil && !strings.HasPrefix(m, "/prometheus/") && !strings.HasPrefix(m, "example.com") { // those are Prometheus' own
				t.Errorf("%s mentions %s, which openapi.yaml does not have", page, m)
			}
		}
	}
}

func TestErrorCodes(t *testing.T) {
	t.Parallel()
	text := section(t, "producer.md", "Errors")
	codes := func(text string) (list []string) {
		for _, m := range regexp.MustCompile("`([a-z][a-z_]+)`").FindAllStringSubmatch(text, -1) {
			list = append(list, m[1])
		}
		slices.Sort(list)
		return slices.Compact(list)
	}
	var problems strings.Builder
	for _, row := range rows(text) {
		fmt.Fprintln(&problems, row[1])
	}
	want := description(t).Components.Schemas.Problem.Properties.Code.Enum
	got := slices.DeleteFunc(codes(problems.String()), func(s string) bool { return s == "user" })
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the codes of openapi.yaml (-) and producer.md (+) differ:\n%s", diff)
	}
	want = nil
	for _, file := range []string{"../aggregator/event/fault.go", "../api/query.go"} {
		for _, m := range regexp.MustCompile(`(?m)^\t[cC]ode\w+ += "(\w+)"`).FindAllStringSubmatch(read(t, file), -1) {
			want = append(want, m[1])
		}
	}
	slices.Sort(want)
	_, faults, _ := strings.Cut(text, "\nFaults of an event:")
	if diff := cmp.Diff(want, codes(faults)); diff != "" {
		t.Errorf("the faults of the code (-) and producer.md (+) differ:\n%s", diff)
	}
}

// TestMetricsExist looks up the metrics that the pages mention in the golden file of /metrics.
func TestMetricsExist(t *testing.T) {
	t.Parallel()
	known := map[string]bool{}
	// The daemon of the golden file has no Redis, no receiver, no issuers of tokens, no quotas and no Prometheus.
	for _, help := range []map[string]string{redis.Help(), remotewrite.Help(), auth.Help(), api.Help()} {
		for name := range help {
			known[name] = true
		}
	}
	for _, m := range regexp.MustCompile(`Name: "(\w+)"`).FindAllStringSubmatch(sources(t, "../exporter/embedded/*.go"), -1) {
		known[m[1]] = true
	}
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (\S+)`).FindAllStringSubmatch(read(t, "../cmd/usaged/testdata/metrics.golden"), -1) {
		known[m[1]] = true
	}
	for _, page := range pages(t) {
		for _, name := range regexp.MustCompile(`\busaged?_[a-z_]+[a-z]`).FindAllString(link.ReplaceAllString(read(t, page), ""), -1) {
			if !known[name] && !strings.Contains(read(t, page), "name: "+name) { // a meter's metric
				t.Errorf("%s mentions %s, which /metrics does not have", page, name)
			}
		}
	}
}

// TestRedisPage compares what redis.md quotes from the code: the rules of the Redis user, and the log.
func TestRedisPage(t *testing.T) {
	t.Parallel()
	page := read(t, "redis.md")
	for _, rules := range [][]string{redis.ACL(), redis.InspectorACL()} {
		if want := strings.Join(rules, " ") + "\n```"; !strings.Contains(page, want) {
			t.Errorf("redis.md does not have the rules %s", want)
		}
	}
	code := sources(t, "../aggregator/*.go", "../aggregator/store/redis/*.go")
	messages := regexp.MustCompile(`msg="([^"]+)"`).FindAllStringSubmatch(page, -1)
	if len(messages) == 0 {
		t.Error("redis.md quotes no log")
	}
	for _, m := range messages {
		if !strings.Contains(code, `("`+m[1]+`"`) {
			t.Errorf("redis.md quotes %q, which nobody logs", m[1])
		}
	}
}

// TestMakeTargets looks up the targets that the pages mention.
func TestMakeTargets(t *testing.T) {
	t.Parallel()
	makefile := read(t, "../Makefile")
	for _, page := range pages(t) {
		for _, m := range regexp.MustCompile("(?m)(?:`|^)make ([a-z0-9-]+)").FindAllStringSubmatch(read(t, page), -1) {
			if !strings.Contains(makefile, "\n"+m[1]+":") {
				t.Errorf("%s mentions make %s, which does not exist", page, m[1])
			}
		}
	}
}

// TestFoldersExist looks up the folders that the pages list.
func TestFoldersExist(t *testing.T) {
	t.Parallel()
	folder := regexp.MustCompile(`(?m)(?:^|  )([a-z]+(?:/[a-z]+)*)/ `)
	for page, heading := range map[string]string{readme: "Folders", "contributor.md": "Layout"} {
		found := folder.FindAllStringSubmatch(section(t, page, heading), -1)
		if len(found) < 10 {
			t.Errorf("%s lists %d folders under %q", page, len(found), heading)
		}
		for _, m := range found {
			if info, err := os.Stat(filepath.Join("..", m[1])); err != nil || !info.IsDir() {
				t.Errorf("%s lists %s/, which is no folder", page, m[1])
			}
		}
	}
}

// TestExamples runs the console blocks of each page in order, beside a daemon of its own, and compares what they print.
func TestExamples(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"bash", "curl"} {
		if _, err := exec.LookPath(program); err != nil {
			need(t, program+" is not installed: install it to run the examples")
		}
	}
	for _, page := range []string{readme, "producer.md", "usagectl.md", "operator.md"} {
		t.Run(filepath.Base(page), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := os.Symlink(filepath.Dir(bin(t, "usaged")), filepath.Join(dir, "bin")); err != nil {
				t.Fatal(err)
			}
			url := startDaemon(t, dir)
			setup := ""
			for _, block := range blocks(t, page, "console") {
				for _, ex := range examples(block) {
					command := strings.ReplaceAll(ex.command, "http://127.0.0.1:8080", url)
					if ex.output == "" {
						setup += command // as token=…
						continue
					}
					runExample(t, dir, setup+command, ex.output)
				}
			}
		})
	}
}

type example struct{ command, output string }

// examples takes a console block apart: lines behind "$ " and "> " are typed, others are printed.
func examples(block string) (list []example) {
	for line := range strings.Lines(block) {
		last := len(list) - 1
		if typed, ok := strings.CutPrefix(line, "$ "); ok {
			list = append(list, example{command: typed})
		} else if more, ok := strings.CutPrefix(line, "> "); ok {
			list[last].command += more
		} else {
			list[last].output += line
		}
	}
	return list
}

// runExample runs a command until it prints what is wanted: reads lag behind the 202 of a POST. A command that
// changes something prints what is wanted at once, or its repetition is a failure too.
func runExample(t *testing.T, dir, command, want string) {
	t.Helper()
	waittest.Until(t, command, func() error {
		cmd := exec.Command("bash", "-euo", "pipefail", "-c", command)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		diff := cmp.Diff(stable(want), stable(string(out)))
		if err == nil && diff == "" {
			return nil
		}
		if strings.Contains(command, "/events ") || strings.Contains(command, "send") {
			t.Fatalf("%s\n%v, want (-), got (+):\n%s", command, err, diff)
		}
		return fmt.Errorf("%v, want (-), got (+):\n%s", err, diff)
	})
}

// stable replaces what differs at each run.
func stable(s string) string {
	s = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}`).ReplaceAllString(s, "ID")
	s = regexp.MustCompile(`[\w-]{22}\.\d+\.[0-9a-f]{6}`).ReplaceAllString(s, "CURSOR")
	s = regexp.MustCompile(`\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\d(\.\d+)?Z)?`).ReplaceAllString(s, "TIME")
	s = regexp.MustCompile(`[0-9a-f]{8}…`).ReplaceAllString(s, "DIGEST…")
	return strings.TrimSpace(strings.ReplaceAll(s, "\r\n", "\n")) // as CSV has
}

// startDaemon runs usaged in dir with dir/data, and dir/meters.yml as the meters' file, and returns its URL.
func startDaemon(t *testing.T, dir string) string {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "meters.yml"), []byte("meters: []\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.Command(bin(t, "usaged"), "--web.listen-address=127.0.0.1:0", "--meters.file=meters.yml")
	cmd.Dir, cmd.Stderr = dir, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt) // it may have exited
		if err := <-exited; err != nil {
			t.Errorf("usaged: %v\n%s", err, &log)
		}
	})
	address := ""
	waittest.Until(t, "start usaged", func() error {
		url, err := os.ReadFile(filepath.Join(dir, "data", "usaged.url"))
		if err != nil {
			return err
		}
		address = strings.TrimSpace(string(url))
		return ready(t.Context(), address)
	})
	return address
}

func ready(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/-/ready", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("/-/ready answers %s", resp.Status)
	}
	return nil
}

// TestImportMappings runs the jq expressions of import.md over the real data, and compares with the truth and with the
// figures on the page.
func TestImportMappings(t *testing.T) {
	t.Parallel()
	dir := os.Getenv("USAGE_TESTDATA")
	if dir == "" {
		dir = "../../shared/data"
	}
	var mappings []string
	for _, m := range regexp.MustCompile(`--jq \\\n +'([^']+)'`).FindAllStringSubmatch(read(t, "import.md"), -1) {
		mappings = append(mappings, m[1])
	}
	files := []string{
		"events/gharchive_2015-01-01-1.json.gz", "events/gharchive_min_2015-04-23-10.jsonl.gz",
		"events/wikiticker-2015-09-12-sampled.json.gz", "llm_usage/aider_analytics_2024-08_2025-04.jsonl.gz",
	}
	if len(mappings) != len(files) {
		t.Fatalf("%d mappings in import.md, want %d", len(mappings), len(files))
	}
	for i, name := range files {
		t.Run(filepath.Base(name), func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(dir, name)
			if _, err := os.Stat(path); err != nil {
				need(t, fmt.Sprintf("no real data: %v: name its directory with USAGE_TESTDATA", err))
			}
			checkMapping(t, mappings[i], path)
		})
	}
}

// truth is part of the file beside a data file.
type truth struct {
	Events uint64            `json:"total_events"`
	Users  int               `json:"distinct_users"`
	Types  map[string]uint64 `json:"events_per_type"`
}

func checkMapping(t *testing.T, mapping, path string) {
	t.Helper()
	var want truth
	if err := json.Unmarshal([]byte(read(t, strings.TrimSuffix(path, ".gz")+".expected.json")), &want); err != nil {
		t.Fatal(err)
	}
	query, err := gojq.Parse(mapping)
	if err != nil {
		t.Fatal(err)
	}
	code, err := gojq.Compile(query)
	if err != nil {
		t.Fatal(err)
	}
	types, users := map[string]uint64{}, map[string]bool{}
	for record := range records(t, path) {
		v, _ := code.Run(record).Next()
		e, ok := v.(map[string]any)
		if !ok {
			t.Fatalf("%v becomes %v", record, v)
		}
		eventType, ok := e["event_type"].(string)
		if !ok || e["created_at"] == nil || e["source"] == "" || len(e["metadata"].(map[string]any)) == 0 {
			t.Fatalf("%v becomes %v", record, e)
		}
		types[eventType]++
		if user, ok := e["user_id"].(string); ok {
			users[user] = true
		}
	}
	if diff := cmp.Diff(want.Types, types); diff != "" {
		t.Errorf("types, want (-), got (+):\n%s", diff)
	}
	if len(users) != want.Users {
		t.Errorf("%d users, want %d", len(users), want.Users)
	}
	if strings.Contains(path, "aider") { // the page has no figures: what is published changes
		return
	}
	page := strings.Join(strings.Fields(read(t, "import.md")), " ")
	figures := fmt.Sprintf("%s events of %d types and %s users", thousands(want.Events), len(want.Types), thousands(uint64(want.Users)))
	if !strings.Contains(page, figures) {
		t.Errorf("import.md does not say %q", figures)
	}
	most := slices.Max(slices.Collect(maps.Values(want.Types)))
	if !strings.Contains(page, "leads with "+thousands(most)) {
		t.Errorf("import.md does not say that a type leads with %s", thousands(most))
	}
}

func thousands(n uint64) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s,%03d", thousands(n/1000), n%1000)
}

// records yields the JSON values of a file.
func records(t *testing.T, path string) func(yield func(any) bool) {
	return func(yield func(any) bool) {
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		text, err := gzip.NewReader(file)
		if err != nil {
			t.Fatal(err)
		}
		decoder := json.NewDecoder(text)
		for {
			var v any
			if err := decoder.Decode(&v); err == io.EOF {
				return
			} else if err != nil {
				t.Fatal(err)
			}
			if !yield(v) {
				return
			}
		}
	}
}
