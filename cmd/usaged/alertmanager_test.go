package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// alertmanagerEnv makes the test fail where there is no Alertmanager, as make alertmanager-test does.
const alertmanagerEnv = "USAGE_TEST_ALERTMANAGER"

// notification is what we look at in a webhook of Alertmanager's.
type notification struct {
	Alerts []struct {
		Status              string
		Labels, Annotations map[string]string
		GeneratorURL        string `json:"generatorURL"`
	}
}

// TestAlertmanager has a real Alertmanager pass the Watchdog on to a receiver.
func TestAlertmanager(t *testing.T) {
	t.Parallel()
	program, err := exec.LookPath("prometheus-alertmanager")
	if err != nil {
		program, err = exec.LookPath("alertmanager")
	}
	if err != nil {
		if os.Getenv(alertmanagerEnv) != "" {
			t.Fatal("no Alertmanager: on Debian apt-get install prometheus-alertmanager")
		}
		t.Skip("no Alertmanager: on Debian apt-get install prometheus-alertmanager, then make alertmanager-test")
	}
	received := make(chan notification, 100)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var n notification
		if err := json.NewDecoder(r.Body).Decode(&n); err != nil {
			t.Error(err)
		}
		select {
		case received <- n:
		default: // enough
		}
	}))
	defer receiver.Close()
	url := startAlertmanager(t, program, receiver.URL)

	d := newInstance(t, "--alertmanager.url="+url, prometheusFile(t, secondly), fastRules(t, "alerts.yml"))
	d.start()
	var n notification
	eventually(t, "a notification", func() error {
		select {
		case n = <-received:
			return nil
		default:
			return fmt.Errorf("%.0f sent", d.metric("prometheus_notifications_sent_total"))
		}
	})
	if len(n.Alerts) != 1 {
		t.Fatalf("%d alerts, want one: %+v", len(n.Alerts), n.Alerts)
	}
	a := n.Alerts[0]
	if a.Status != "firing" || a.Labels["alertname"] != "Watchdog" || a.Labels["severity"] != "none" {
		t.Errorf("%s %v", a.Status, a.Labels)
	}
	if a.Annotations["summary"] == "" || !strings.Contains(a.Annotations["description"], "its value is 1") ||
		a.Annotations["runbook_url"] != "docs/runbooks.md#watchdog" {
		t.Errorf("annotations %v", a.Annotations)
	}
	if !strings.Contains(a.GeneratorURL, "/prometheus/api/v1/query?query=vector") {
		t.Errorf("the alert leads to %s", a.GeneratorURL)
	}
}

// startAlertmanager starts one that passes everything on to a webhook at once, and returns its URL.
func startAlertmanager(t *testing.T, program, webhook string) string {
	t.Helper()
	dir := t.TempDir()
	config := filepath.Join(dir, "alertmanager.yml")
	text := fmt.Sprintf("route: {receiver: test, group_wait: 0s, group_interval: 1s}\nreceivers: [{name: test, webhook_configs: [{url: %q}]}]\n", webhook)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close() // it cannot choose a port itself and say which
	log := &logTail{}
	cmd := exec.Command(program, "--config.file="+config, "--storage.path="+dir, "--web.listen-address="+address, "--cluster.listen-address=")
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = log, log, childAttr()
	p := spawn(t, cmd)
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it may be gone
		<-p.exited
		if t.Failed() {
			t.Logf("log of Alertmanager:\n%s", log)
		}
	})
	eventually(t, "Alertmanager", func() error {
		resp, err := http.Get("http://" + address + "/-/ready")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("status %d", resp.StatusCode)
		}
		return nil
	})
	return "http://" + address
}
