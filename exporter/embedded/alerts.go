package embedded

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/prometheus/prometheus/notifier"
	"github.com/prometheus/prometheus/rules"
)

// notify hands alerts to the notifier. Their link leads to the expression's value in our HTTP API; Prometheus' own function
// links to a page of its user interface.
func (r *running) notify(_ context.Context, expr string, alerts ...*rules.Alert) {
	out := make([]*notifier.Alert, 0, len(alerts))
	for _, a := range alerts {
		ends := a.ResolvedAt
		if ends.IsZero() {
			ends = a.ValidUntil
		}
		out = append(out, &notifier.Alert{
			StartsAt: a.FiredAt, EndsAt: ends, Labels: a.Labels, Annotations: a.Annotations,
			GeneratorURL: r.rulesURL + "/api/v1/query?query=" + url.QueryEscape(expr),
		})
	}
	if len(out) > 0 {
		r.alerts.Send(out...)
	}
}

const (
	// alertAttempts is how often alerts are sent to an Alertmanager that has put them off. What is dropped then, the rules send again
	// within a minute as long as it lasts.
	alertAttempts = 3
	// alertBackoff is the wait before the second attempt.
	alertBackoff = 500 * time.Millisecond
)

// sendAlerts sends a request of the notifier, whose body is a JSON array of alerts. It follows no redirect: that would make a GET of
// the POST, and the page that answers would be taken for the Alertmanager. Alerts that are too large together go in halves.
func sendAlerts(ctx context.Context, client *http.Client, req *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, fmt.Errorf("read alerts: %w", err)
	}
	direct := *client
	direct.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return (&alertSender{&direct, req}).send(ctx, body)
}

// alertSender sends parts of a request.
type alertSender struct {
	client *http.Client
	req    *http.Request
}

func (s *alertSender) send(ctx context.Context, body []byte) (*http.Response, error) {
	resp, err := s.insist(ctx, body)
	if err != nil || resp.StatusCode != http.StatusRequestEntityTooLarge {
		return resp, err
	}
	var alerts []json.RawMessage
	if json.Unmarshal(body, &alerts) != nil || len(alerts) < 2 {
		return resp, nil //nolint:nilerr // what cannot be halved stays refused
	}
	resp.Body.Close()
	for _, half := range [][]json.RawMessage{alerts[:len(alerts)/2], alerts[len(alerts)/2:]} {
		if body, err = json.Marshal(half); err != nil {
			return nil, fmt.Errorf("encode alerts: %w", err)
		}
		if resp, err = s.send(ctx, body); err != nil || resp.StatusCode/100 != 2 {
			return resp, err // all are sent again, which changes nothing for those that were taken
		}
	}
	return resp, nil
}

// insist sends a body until it is taken, refused, or was put off too often.
func (s *alertSender) insist(ctx context.Context, body []byte) (*http.Response, error) {
	for attempt, wait := 1, alertBackoff; ; attempt, wait = attempt+1, 2*wait {
		req := s.req.Clone(ctx)
		req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		req.GetBody = nil
		resp, err := s.client.Do(req)
		if err != nil || attempt == alertAttempts || !isPutOff(resp.StatusCode) {
			return resp, err
		}
		resp.Body.Close()
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// isPutOff says whether the same request may be taken a moment later.
func isPutOff(status int) bool {
	switch status {
	case http.StatusLocked, http.StatusTooEarly, http.StatusTooManyRequests, http.StatusRequestTimeout:
		return true
	}
	return status/100 == 5
}
