package embedded_test

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"usaged/exporter/embedded"
	"usaged/exporter/remotewrite/remotewritetest"
)

var update = flag.Bool("update", false, "rewrite the golden file")

// faulty are files that are refused, by why.
var faulty = []struct{ name, file string }{
	{"not YAML", "global:\n  scrape_interval: [\n"},
	{"not a mapping", "- global\n"},
	{"a section that is not known", "global: {}\nrule_files: [a.yml]\nremote_read:\n- url: http://x\n"},
	{"service discovery", "scrape_configs:\n- job_name: a\n  kubernetes_sd_configs:\n  - role: pod\n- job_name: b\n  file_sd_configs: []\n"},
	{"our own job", "scrape_configs:\n- static_configs: []\n  job_name: usaged\n"},
	{"a key that Prometheus does not know", "global:\n  scrape_intervall: 5s\n"},
	{"a value of another kind", "global:\n  scrape_interval: soon\n"},
	{"two jobs of one name", "scrape_configs:\n- job_name: a\n- job_name: b\n- job_name: a\n"},
	{"a second endpoint that is wrong", "remote_write:\n- url: http://x\n- name: none\n"},
	{"two ways to authenticate", "remote_write:\n- url: http://x\n  basic_auth: {username: a, password: b}\n  bearer_token: c\n"},
	{"a queue", "remote_write:\n- url: http://x\n  queue_config:\n    max_shards: 4\n    capacity: 10\n"},
	{"one endpoint twice", "remote_write:\n- url: http://x\n- url: http://x\n"},
	{"a certificate that is not there", "remote_write:\n- url: https://x\n  tls_config: {ca_file: none.pem}\n"},
	{"Alertmanagers to be discovered", "alerting:\n  alertmanagers:\n  - dns_sd_configs:\n    - names: [x]\n"},
	{"an Alertmanager that is wrong", "alerting:\n  alertmanagers:\n  - static_configs: [{targets: [a]}]\n  - static_configs: [{targets: [b]}]\n    api_version: v1\n"},
	{"a query log", "global:\n  query_log_file: q.log\n"},
}

// TestFaults compares what is said about wrong files with testdata/faults.golden.
func TestFaults(t *testing.T) {
	t.Parallel()
	var got strings.Builder
	for _, f := range faulty {
		r := newRig(t, f.file)
		err := embedded.Check(r.cfg)
		if err == nil {
			t.Errorf("%s: no error", f.name)
			continue
		}
		text := strings.ReplaceAll(err.Error(), filepath.Dir(r.cfg.ConfigFile)+"/", "")
		fmt.Fprintf(&got, "%s\n\t%s\n", f.name, strings.ReplaceAll(text, "\n", "\n\t"))
	}
	path := filepath.Join("testdata", "faults.golden")
	if *update {
		if err := os.WriteFile(path, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got.String(), "\n")); diff != "" {
		t.Errorf("faults (-want +got; -update rewrites the file):\n%s", diff)
	}
}

func TestFlagsAreChecked(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.cfg.RemoteWriteURLs = []string{"localhost:9090"}
	r.cfg.AlertmanagerURLs = []string{"http://user:secret@:/%zz"}
	r.cfg.RulesFile = "none.yml"
	err := embedded.Check(r.cfg)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"--remote-write.url: ", "--alertmanager.url: ", "--rules.file: "} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("%v tells the password", err)
	}
}

// TestWhatIsTaken has everything that a file may hold, next to flags.
func TestWhatIsTaken(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"", "# nothing\n", "global:\nscrape_configs:\nremote_write:\nalerting:\n", `
global:
  scrape_interval: 5s
  external_labels: {replica: a}
scrape_configs:
- job_name: other
  static_configs: [{targets: ["other:80"], labels: {a: b}}]
remote_write:
- url: https://mimir/api/v1/push
  name: mimir
  protobuf_message: io.prometheus.write.v2.Request
  basic_auth: {username: a, password: b}
  headers: {X-Scope-OrgID: me}
  queue_config: {max_samples_per_send: 500, batch_send_deadline: 1s}
  write_relabel_configs: [{source_labels: [__name__], regex: "usage.*", action: keep}]
alerting:
  alert_relabel_configs: [{regex: replica, action: labeldrop}]
  alertmanagers:
  - static_configs: [{targets: ["am:9093"]}]
`} {
		r := newRig(t, file)
		r.cfg.RemoteWriteURLs, r.cfg.AlertmanagerURLs = []string{"http://vm:8428/api/v1/write"}, []string{"http://a:b@am2:9093/x"}
		if err := embedded.Check(r.cfg); err != nil {
			t.Errorf("%q: %v", file, err)
		}
	}
}

// TestKeepRecorded sends to an endpoint that says nothing about what it wants, to one that wants all, and to one that wants its
// own: what rules have made stays here where it is wanted so, and nobody has said otherwise.
func TestKeepRecorded(t *testing.T) {
	t.Parallel()
	const made = "ALERTS ALERTS_FOR_STATE usage:events:sum"
	for _, tc := range []struct {
		keep                bool
		silent, all, hasOwn string
	}{
		{false, made, made, made},
		{true, "", made, made},
	} {
		t.Run(fmt.Sprintf("keep=%t", tc.keep), func(t *testing.T) {
			t.Parallel()
			silent, all, own := remotewritetest.New(t), remotewritetest.New(t), remotewritetest.New(t)
			r := newRig(t, fast+fmt.Sprintf("remote_write:\n- {url: %q, write_relabel_configs: []}\n- {url: %q, write_relabel_configs: [{regex: instance, action: labeldrop}]}\n", all.URL, own.URL))
			r.cfg.RemoteWriteURLs, r.cfg.KeepRecorded = []string{silent.URL}, tc.keep
			r.cfg.Rules = fstest.MapFS{"shipped.yml": {Data: []byte("groups:\n- name: a\n  rules:\n" +
				"  - {record: 'usage:events:sum', expr: sum(usage_events_total)}\n  - {alert: Always, expr: vector(1), for: 1s}\n")}}
			r.start()
			r.becomes(`count({__name__=~"usage:events:sum|ALERTS_FOR_STATE"})`, "2")
			r.stop(r.prom) // which sends what is left
			for receiver, want := range map[*remotewritetest.Receiver]string{silent: tc.silent, all: tc.all, own: tc.hasOwn} {
				names := map[string]bool{}
				for series := range receiver.Samples() {
					name, _, _ := strings.Cut(strings.TrimPrefix(series, `{__name__="`), `"`)
					names[name] = true
				}
				if !names["usage_events_total"] || !names["up"] {
					t.Errorf("what was scraped was not sent: %v", names)
				}
				got := slices.DeleteFunc(slices.Sorted(maps.Keys(names)), func(name string) bool { return !strings.Contains(made, name) })
				if strings.Join(got, " ") != want {
					t.Errorf("of what rules have made %v were sent, want %s", got, want)
				}
			}
		})
	}
}
