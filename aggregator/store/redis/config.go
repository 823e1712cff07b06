package redis

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	vm "github.com/VictoriaMetrics/metrics"
)

// Config says which Redis to use, and how.
type Config struct {
	// URL names the servers. Required. The forms are
	//
	//	redis://[user[:password]@]host[:port][/db]
	//	unix://[user[:password]@]/path/to.sock[?db=0]
	//	redis+sentinel://[user[:password]@]sentinel[:port],…/master[/db][?sentinel_user=…&sentinel_password=…]
	//	redis+cluster://[user[:password]@]host[:port],…
	//
	// and rediss://, rediss+sentinel:// and rediss+cluster:// for TLS. Ports default to 6379, those of Sentinels to 26379.
	// Reserved characters in user and password are percent-encoded. No part of them is ever logged or in an error.
	URL string
	// PasswordFile holds the password, with or without a newline at its end; the URL must not have one then. It is read
	// again for each connection, so that a password can be changed without a restart.
	PasswordFile string
	// TLS says whom to trust and who we are, for the TLS forms of URL.
	TLS TLS

	// Partitions is the number of partitions, fixed when the store is first used. 0 takes what the store says; where it is
	// new, or cannot be reached by Open, that is 1, or 16 for a cluster.
	Partitions int
	// Retention is the number of UTC days, today included, that rollups are kept. Required.
	Retention int

	// patience takes the place of shorter timeouts where it is set, as it is by tests on busy machines.
	patience time.Duration

	// Kept returns for how many days, today included, rollups are kept by now, where that may be longer. Nil: for Retention.
	Kept func() int
	// Now is the clock by which usage:meta and the eviction policy are looked at again. time.Now where nil.
	Now func() time.Time
	// Log receives warnings. nil discards them.
	Log *slog.Logger
	// Metrics receives the metrics that Help lists, until Close. nil keeps none.
	Metrics *vm.Set
}

// TLS are the files of a TLS connection, all optional.
type TLS struct {
	// CAFile holds the certificates to trust, the system's where empty.
	CAFile string
	// CertFile and KeyFile are our certificate and its key, for servers that ask for one.
	CertFile, KeyFile string
	// ServerName is the name that the servers' certificates must have, that of the address where empty.
	ServerName string
}

// mode is how the servers work together.
type mode int

const (
	single mode = iota
	sentinel
	cluster
)

// target is what a URL says.
type target struct {
	mode     mode
	tls      bool
	addrs    []string
	unix     bool
	master   string
	db       int
	user     string
	password string

	sentinelUser, sentinelPassword string
}

var schemes = map[string]target{
	"redis":           {mode: single},
	"rediss":          {mode: single, tls: true},
	"unix":            {mode: single, unix: true},
	"redis+sentinel":  {mode: sentinel},
	"rediss+sentinel": {mode: sentinel, tls: true},
	"redis+cluster":   {mode: cluster},
	"rediss+cluster":  {mode: cluster, tls: true},
}

const (
	redisPort    = "6379"
	sentinelPort = "26379"
)

// parseURL reads a URL. Its errors contain nothing of it but what cannot be secret. package net/url reads only parts: its
// errors quote what it was given, and it knows one host.
func parseURL(raw string) (*target, error) {
	scheme, rest, ok := strings.Cut(raw, "://")
	t, known := schemes[scheme]
	if !ok || !known {
		return nil, errors.New("the URL must begin with redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://")
	}
	rest, query, _ := strings.Cut(rest, "?")
	var err error
	if at := strings.LastIndexByte(rest, '@'); at >= 0 {
		if err = t.readUser(rest[:at]); err != nil {
			return nil, err
		}
		rest = rest[at+1:]
	}
	if err := t.readQuery(query); err != nil {
		return nil, err
	}
	if t.unix {
		if !strings.HasPrefix(rest, "/") {
			return nil, errors.New("a unix:// URL must have an absolute path")
		}
		t.addrs = []string{rest}
		return &t, nil
	}
	hosts, path, _ := strings.Cut(rest, "/")
	if err := t.readHosts(hosts); err != nil {
		return nil, err
	}
	return &t, t.readPath(strings.TrimSuffix(path, "/"))
}

func (t *target) readUser(info string) error {
	user, password, _ := strings.Cut(info, ":")
	var errs [2]error
	t.user, errs[0] = url.PathUnescape(user)
	t.password, errs[1] = url.PathUnescape(password)
	if errs[0] != nil || errs[1] != nil || strings.ContainsAny(info, "/@") {
		return errors.New("user and password of the URL must be percent-encoded")
	}
	return nil
}

func (t *target) readHosts(hosts string) error {
	for host := range strings.SplitSeq(hosts, ",") {
		port := redisPort
		if t.mode == sentinel {
			port = sentinelPort
		}
		name := host
		if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") {
			name, port = host[:i], host[i+1:]
		}
		name, err := readHost(name)
		if err != nil {
			return err
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return errors.New("a port of the URL is not a number; reserved characters in a password must be percent-encoded")
		}
		if name == "" {
			return errors.New("the URL names no host")
		}
		t.addrs = append(t.addrs, name+":"+port)
	}
	if t.mode == single && len(t.addrs) > 1 {
		return errors.New("the URL names several hosts: use redis+sentinel:// or redis+cluster://")
	}
	return nil
}

// readHost checks a name or an address, which nobody could dial otherwise. It returns the form that package net dials: an IPv6
// address keeps its brackets, and its zone, which RFC 6874 writes behind %25, stands behind a single %.
func readHost(host string) (string, error) {
	inner, opened := strings.CutPrefix(host, "[")
	inner, closed := strings.CutSuffix(inner, "]")
	switch {
	case opened && closed:
		address, zone, zoned := strings.Cut(inner, "%")
		ip, err := netip.ParseAddr(address)
		zone = strings.TrimPrefix(zone, "25")
		if err != nil || !ip.Is6() || zoned && !hostForm.MatchString(zone) {
			return "", errors.New("the brackets of the URL must hold an IPv6 address, as [2001:db8::1] or [fe80::1%25eth0]")
		}
		if zoned {
			address += "%" + zone
		}
		return "[" + address + "]", nil
	case strings.Contains(host, ":"):
		return "", errors.New("an IPv6 address of the URL needs brackets, as redis://[2001:db8::1]:6379; reserved characters in a password must be percent-encoded")
	case host != "" && !hostForm.MatchString(host):
		return "", errors.New("a host of the URL is neither a name nor an address; reserved characters in a password must be percent-encoded")
	}
	return host, nil
}

var hostForm = regexp.MustCompile(`^[\pL\pN._-]+$`)

func (t *target) readPath(path string) error {
	db := path
	switch t.mode {
	case sentinel:
		t.master, db, _ = strings.Cut(path, "/")
		if t.master == "" {
			return errors.New("a redis+sentinel:// URL must end with /<name of the master>")
		}
	case cluster:
		if path != "" {
			return errors.New("a cluster has no databases: the URL must end with the hosts")
		}
	case single:
	}
	return t.readDB(db)
}

func (t *target) readDB(db string) error {
	if db == "" {
		return nil
	}
	n, err := strconv.ParseUint(db, 10, 16)
	if err != nil {
		return errors.New("the database of the URL is not a number")
	}
	t.db = int(n)
	return nil
}

func (t *target) readQuery(query string) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return errors.New("the query of the URL must be percent-encoded")
	}
	for name := range values {
		value := values.Get(name)
		switch {
		case name == "db" && t.unix:
			if err := t.readDB(value); err != nil {
				return err
			}
		case name == "sentinel_user" && t.mode == sentinel:
			t.sentinelUser = value
		case name == "sentinel_password" && t.mode == sentinel:
			t.sentinelPassword = value
		default:
			return errors.New("the query of the URL has a parameter that is not db (unix://), sentinel_user or sentinel_password (redis+sentinel://)")
		}
	}
	return nil
}

// String is the URL without credentials.
func (t *target) String() string {
	for scheme, s := range schemes {
		if s.mode == t.mode && s.tls == t.tls && s.unix == t.unix {
			text := scheme + "://" + strings.Join(t.addrs, ",")
			if t.master != "" {
				text += "/" + t.master
			}
			return text
		}
	}
	return ""
}

// readPassword returns the first line of a file, or an error that doesn't show it.
func readPassword(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read password: %w", err)
	}
	password := strings.TrimRight(string(text), "\r\n")
	if password == "" || strings.ContainsAny(password, "\r\n") {
		return "", fmt.Errorf("read password: %s must hold one line", path)
	}
	return password, nil
}

// load reads the files.
func (c TLS) load() (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.ServerName}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read CA certificates: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read CA certificates: %s has none in PEM form", c.CAFile)
		}
	}
	if (c.CertFile == "") != (c.KeyFile == "") {
		return nil, errors.New("a TLS certificate and its key go together")
	}
	if c.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("load TLS certificate: %w", err)
		}
		cfg.Certificates = []tls.Certificate{cert}
	}
	return cfg, nil
}
