package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"usaged/aggregator/store/redis/redistest"
)

// central is a Prometheus that replicas write to, and that evaluates the shipped rules every second.
type central struct {
	tb     testing.TB
	url    string // of the API, without /api/v1
	write  string // an element of remote_write in a replica's configuration
	health []string
	get    func(path string) ([]byte, error)
}

// TestHealthOfWriters has two daemons on one Redis, which write to a third party that evaluates the same rules and is not told
// to leave anything out, and which evaluate them themselves as well. Both answer with its score.
func TestHealthOfWriters(t *testing.T) {
	t.Parallel()
	t.Run("usaged", func(t *testing.T) {
		t.Parallel()
		d := newInstance(t, "--web.enable-remote-write-receiver", prometheusFile(t, secondly), fastRules(t, "health.yml"))
		d.start()
		const write = "{url: %q, authorization: {credentials_file: %q}, queue_config: {batch_send_deadline: 1s}}"
		(&central{
			tb: t, url: d.url + "/prometheus", get: func(path string) ([]byte, error) { return d.try("/prometheus"+path, "viewer") },
			write:  fmt.Sprintf(write, d.url+"/prometheus/api/v1/write", filepath.Join(d.dir, "producer.token")),
			health: []string{"--health.http-config-file=" + viewerOf(t, d)},
		}).scoresWriters(t)
	})
	for _, program := range []string{debianPrometheus, modulePrometheus} {
		t.Run(program, func(t *testing.T) {
			t.Parallel()
			rules := strings.TrimPrefix(fastRules(t, "usage.yml", "health.yml"), "--rules.file=")
			p := newPrometheus(t, program, "global: {evaluation_interval: 1s}\nrule_files: ["+rules+"]\n")
			p.start()
			const write = "{url: %q, queue_config: {batch_send_deadline: 1s}}"
			(&central{tb: t, url: "http://" + p.address, get: p.get, write: fmt.Sprintf(write, p.writeURL())}).scoresWriters(t)
		})
	}
}

// scoresWriters has two daemons write there and ask there.
func (c *central) scoresWriters(t *testing.T) {
	redis := redistest.Start(t)
	rules := fastRules(t, "health.yml")
	var replicas []*instance
	for _, name := range []string{"a", "b"} {
		config := strings.Replace(secondly, "global: {", "global: {external_labels: {replica: "+name+"}, ", 1) + "remote_write: [" + c.write + "]\n"
		d := newRedisInstance(t, redis.URL(), append(c.health, "--health.prometheus-url="+c.url, rules, prometheusFile(t, config))...)
		d.start()
		d.post(outcomes("a", 10, 0)...)
		replicas = append(replicas, d)
	}
	c.becomes(`sum(usage:timely_event_outcomes:total{event_type="a"})`, "20") // so that there is a sample before the next
	for _, d := range replicas {
		d.post(outcomes("a", 20, 5)...)
		d.becomes("count(usage:health:evaluated)", "1") // it has what is to stay there
	}
	c.becomes(`sum(usage_event_outcomes_total{event_type="a"})`, "70")
	for _, d := range replicas {
		d.healthBecomes("the score of both", func(h *subject) bool {
			return h.Score != nil && strings.Contains(h.Types["a"].Components["failures"].Text, ": 10 of ")
		})
	}
	eventually(t, "the same answer of both", func() error {
		one, other := replicas[0].get(healthPath, "admin"), replicas[1].get(healthPath, "admin")
		if !bytes.Equal(one, other) { // one is of the next evaluation already
			return fmt.Errorf("%s and %s", one, other)
		}
		return nil
	})
	c.becomes(`count({__name__=~"usage:health:.*|usage:activity:.*|ALERTS.*",replica!=""}) or vector(0)`, "0")
	c.rulesWork()
	for _, d := range replicas {
		if a := d.do(http.MethodGet, "/prometheus/api/v1/status/config", "admin", nil, nil); !strings.Contains(string(a.body), "usage:.*|ALERTS") {
			t.Errorf("the configuration does not show what stays at home: %s", a.body)
		}
	}
}

// becomes waits until an expression is of one series with a value.
func (c *central) becomes(expr, want string) {
	c.tb.Helper()
	eventually(c.tb, expr, func() error {
		body, err := c.get("/api/v1/query?query=" + url.QueryEscape(expr))
		if err != nil {
			return err
		}
		var answer struct{ Data struct{ Result []promSeries } }
		if err := json.Unmarshal(body, &answer); err != nil {
			return err
		}
		if got := answer.Data.Result; len(got) != 1 || fmt.Sprint(got[0].Value[1]) != want {
			return fmt.Errorf("got %v, want %s", got, want)
		}
		return nil
	})
}

// rulesWork fails where a rule cannot be evaluated, as where its operands have several series of the same labels.
func (c *central) rulesWork() {
	c.tb.Helper()
	body, err := c.get("/api/v1/rules")
	if err != nil {
		c.tb.Fatal(err)
	}
	var answer struct {
		Data struct {
			Groups []struct {
				Rules []struct{ Name, Health, LastError string }
			}
		}
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		c.tb.Fatal(err)
	}
	n := 0
	for _, g := range answer.Data.Groups {
		for _, r := range g.Rules {
			n++
			if r.Health == "err" {
				c.tb.Errorf("%s: %s", r.Name, r.LastError)
			}
		}
	}
	if n == 0 {
		c.tb.Error("it has no rules")
	}
}
