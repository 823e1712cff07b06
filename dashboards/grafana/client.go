package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

// grafana is a Grafana, as its HTTP API shows it.
type grafana struct {
	url, token string
	out        io.Writer
}

// client follows no redirect: a POST would become a GET.
var client = &http.Client{
	Timeout:       time.Minute,
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// maxAnswer is more than any dashboard.
const maxAnswer = 32 << 20

// call sends a request and decodes the answer into it, and says whether there is anything: 404 is no error.
func (g *grafana) call(ctx context.Context, method, path string, body, answer any) (found bool, err error) {
	var payload []byte
	if body != nil {
		if payload, err = json.Marshal(body); err != nil {
			return false, fmt.Errorf("encode %s: %w", path, err)
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, g.url+path, bytes.NewReader(payload))
	if err != nil {
		return false, fmt.Errorf("address of Grafana: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+g.token)
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return false, fmt.Errorf("reach Grafana: %w", err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return false, fmt.Errorf("read Grafana's answer to %s %s: %w", method, path, err)
	}
	switch {
	case resp.StatusCode == http.StatusNotFound && method == http.MethodGet:
		return false, nil
	case resp.StatusCode != http.StatusOK:
		return false, refusal(method, path, resp.StatusCode, data)
	}
	if err := json.Unmarshal(data, answer); err != nil {
		return false, fmt.Errorf("the answer to %s %s is not JSON: is it the address of Grafana? %w", method, path, err)
	}
	return true, nil
}

// refusal says what to do about an answer that is an error.
func refusal(method, path string, status int, data []byte) error {
	var answer struct{ Message string }
	_ = json.Unmarshal(data, &answer) // what is no JSON has no message
	hint := ""
	switch {
	case status == http.StatusUnauthorized:
		hint = ": make a new token for the service account"
	case status == http.StatusForbidden:
		hint = ": give the service account the role Editor, and Admin for data sources"
	case status == http.StatusNotFound:
		hint = ": is it the address of Grafana?"
	case status >= 300 && status < 400:
		hint = ": the address redirects; give the one that it redirects to"
	}
	return fmt.Errorf("%s %s: Grafana answers %d %q%s", method, path, status, answer.Message, hint)
}

// say reports what became of one thing.
func (g *grafana) say(what, became string) { fmt.Fprintf(g.out, "%-10s %s\n", became, what) }

const (
	created   = "created"
	updated   = "updated"
	unchanged = "unchanged"
)
