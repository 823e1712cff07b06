package remotewrite

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	commonconfig "github.com/prometheus/common/config"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"

	"usaged/aggregator/aside"
)

// Config assembles a Writer. All fields are required but Damaged.
type Config struct {
	// Dir is the directory of the cursors. It is made where absent.
	Dir string
	// DB is what is sent.
	DB storage.Queryable
	// Tap is what everything goes into the DB through.
	Tap *Tap
	Now func() time.Time
	Log *slog.Logger
	// Damaged is where cursors go that cannot be read. Nil: such an endpoint gets nothing.
	Damaged *aside.Shelf
	// Registerer takes the metrics usaged_remote_write_….
	Registerer prometheus.Registerer
}

// Writer has a sender for every endpoint. It is safe for concurrent use.
type Writer struct {
	cfg     Config
	metrics *writerMetrics

	mu      sync.Mutex
	senders map[string]*sender // by the name of the endpoint
}

// New makes a writer without endpoints.
func New(cfg Config) (*Writer, error) {
	if err := makeDir(&cfg); err != nil {
		return nil, fmt.Errorf("make the directory of remote write: %w", err)
	}
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, err
	}
	cfg.Log = cfg.Log.With("component", "remote write")
	return &Writer{cfg: cfg, metrics: m, senders: map[string]*sender{}}, nil
}

// makeDir makes the directory of the cursors, also where a file has its name.
func makeDir(cfg *Config) error {
	info, err := os.Stat(cfg.Dir)
	if err == nil && !info.IsDir() && cfg.Damaged != nil {
		if err := cfg.Damaged.Move(aside.RemoteWrite, errors.New("a file has the name of the directory of cursors"), cfg.Dir); err != nil {
			return err
		}
	}
	return os.MkdirAll(cfg.Dir, 0o750)
}

// Name is what an endpoint is called in metrics and logs, and what its cursor belongs to: its name where it has one, or
// its URL without a password and without the values of its query, which may be a token.
func Name(endpoint *config.RemoteWriteConfig) string {
	if endpoint.Name != "" {
		return strings.ToValidUTF8(endpoint.Name, "\uFFFD")
	}
	return redacted(endpoint.URL.URL)
}

// Redacted returns an endpoint without what may be a secret, for people to read.
func Redacted(endpoint *config.RemoteWriteConfig) *config.RemoteWriteConfig {
	shown := *endpoint
	if u, err := url.Parse(redacted(endpoint.URL.URL)); err == nil {
		shown.URL = &commonconfig.URL{URL: u}
	} else {
		shown.URL = nil
	}
	shown.Headers = maps.Clone(endpoint.Headers)
	for name := range shown.Headers {
		shown.Headers[name] = hidden
	}
	return &shown
}

// hidden stands where a URL has what may be a secret.
const hidden = "xxxxx"

// redacted writes a URL for people to read, without what may be a secret in it: metrics are open to everybody.
func redacted(u *url.URL) string {
	shown := *u
	if _, hasPassword := u.User.Password(); u.User != nil && !hasPassword {
		shown.User = url.User(hidden) // a token is given so
	}
	shown.Fragment, shown.RawFragment = "", ""
	var query []string
	for part := range strings.SplitSeq(u.RawQuery, "&") {
		name, _, hasValue := strings.Cut(part, "=")
		switch {
		case part == "":
		case hasValue:
			query = append(query, name+"="+hidden)
		default:
			query = append(query, hidden)
		}
	}
	shown.RawQuery = strings.Join(query, "&")
	return strings.ToValidUTF8(shown.Redacted(), "\uFFFD")
}

// Check says what is wrong with an endpoint: a certificate that cannot be read, for instance.
func Check(endpoint *config.RemoteWriteConfig) error {
	_, err := newClient(endpoint)
	return err
}

// Apply replaces the endpoints. A sender whose endpoint stays goes on where it was, also where its settings have changed;
// a new one begins with the samples from now on. On an error everything stays as it was.
func (w *Writer) Apply(external labels.Labels, endpoints []*config.RemoteWriteConfig) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	clients := map[string]*client{}
	var errs []error
	for _, e := range endpoints {
		name := Name(e)
		if clients[name] != nil {
			errs = append(errs, fmt.Errorf("remote write to %s is configured twice: give one of them another name", name))
			continue
		}
		c, err := newClient(e)
		if err != nil {
			errs = append(errs, fmt.Errorf("remote write to %s: %w", name, err))
			continue
		}
		clients[name] = c
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	keep, old := w.stopChanged(external, endpoints)
	for _, e := range endpoints {
		if keep[Name(e)] {
			continue
		}
		s, err := w.newSender(Name(e), e, external, clients[Name(e)], old[Name(e)])
		if err != nil {
			errs = append(errs, err) // the others go on
			continue
		}
		w.senders[s.name] = s
		s.start()
	}
	return errors.Join(errs...)
}

// stopChanged ends the senders whose endpoint is gone or has other settings, where they are. It returns which of the others are kept, and
// those that are to be replaced. It needs mu.
func (w *Writer) stopChanged(external labels.Labels, endpoints []*config.RemoteWriteConfig) (keep map[string]bool, old map[string]*sender) {
	keep, old = map[string]bool{}, map[string]*sender{}
	for _, e := range endpoints {
		s := w.senders[Name(e)]
		keep[Name(e)] = s != nil && labels.Equal(s.external, external) && reflect.DeepEqual(s.cfg, e)
	}
	now, cancel := context.WithCancel(context.Background())
	cancel()
	for name, s := range w.senders {
		kept, wanted := keep[name]
		if kept {
			continue
		}
		s.stop(now)
		delete(w.senders, name)
		if wanted {
			old[name] = s
			continue
		}
		s.tap.leave(s)
		w.metrics.forget(name)
	}
	return keep, old
}

// Close sends what is left, as long as ctx lets it, and ends the senders. What could not be sent is sent after the next
// start. Nothing may be appended any more.
func (w *Writer) Close(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var wait sync.WaitGroup
	for _, s := range w.senders {
		wait.Go(func() {
			s.stop(ctx)
			s.flush(ctx)
			s.tap.leave(s)
		})
	}
	wait.Wait()
	clear(w.senders)
	return nil
}
