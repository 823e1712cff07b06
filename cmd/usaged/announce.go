package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"usaged/aggregator/durable"
)

const (
	// announceEvery is the time between attempts to write the URL file.
	announceEvery = time.Second

	metricAnnounceFailures = "usaged_url_file_failures_total"
)

func announceHelp() map[string]string {
	return map[string]string{
		metricAnnounceFailures: "Times that usaged.url, where usagectl finds the daemon, could not be written.",
	}
}

// announce writes the daemon's URL into the data directory, where usagectl finds it. Where that fails, on a full disk for
// example, the daemon serves all the same, and tries again until it stops.
func (d *daemon) announce(listeners []net.Listener, open *closers) {
	scheme := "http"
	if d.cfg.webConfigFile != "" {
		scheme = "https"
	}
	for _, l := range listeners {
		d.log.Info("accepting requests", "url", scheme+"://"+l.Addr().String())
	}
	path := filepath.Join(d.cfg.dataDir, "usaged.url")
	url := scheme + "://" + localAddress(listeners[0]) + "\n"
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	if d.writeURL(path, url) {
		close(done)
	} else {
		go func() {
			defer close(done)
			for ctx.Err() == nil && !d.writeURL(path, url) {
				select {
				case <-time.After(announceEvery):
				case <-ctx.Done():
				}
			}
		}()
	}
	open.push("URL file", func(context.Context) error {
		stop()
		<-done
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
}

// writeURL reports whether the URL file is written. Otherwise it removes the one of an earlier daemon, which would lead to
// somebody else.
func (d *daemon) writeURL(path, url string) bool {
	failures := d.set.GetOrCreateCounter(metricAnnounceFailures)
	err := durable.WriteFile(path, []byte(url), 0o644)
	if err == nil || errors.Is(err, durable.ErrUncertain) {
		return true
	}
	if failures.Get() == 0 {
		d.log.Warn("usagectl does not find this daemon by itself until its URL can be written", "err", fmt.Errorf("write %s: %w", path, err))
	}
	failures.Inc()
	_ = os.Remove(path) // it may be absent
	return false
}

// localAddress returns the address under which a process on this machine reaches a listener.
func localAddress(l net.Listener) string {
	host, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return l.Addr().String()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return net.JoinHostPort(host, port)
}
