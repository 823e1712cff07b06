package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"golang.org/x/term"

	"usaged/client"
)

const (
	defaultURL   = "http://127.0.0.1:8080"
	urlFile      = "usaged.url" // the daemon writes its base URL there
	adminFile    = "admin.token"
	producerFile = "producer.token"

	outputTable = "table"
	outputJSON  = "json"
	outputCSV   = "csv"
)

// session is the process with the global flags: which daemon, which token, which form of output.
type session struct {
	*process
	flagURLs  []string
	tokenFile string
	dataDir   string
	dirGiven  bool // the data directory was named, by flag or environment
	output    string

	// For the texts of errors.
	url         string // the daemon's address
	urlSource   string // where the address came from
	tokenSource string // where the token came from; empty: there is none
	unsent      string // the data directory's token that was kept back, since another daemon was asked
}

// addFlags defines the global flags. The environment gives their defaults.
func (s *session) addFlags(app *kingpin.Application) {
	app.Flag("url", "The daemon's address; by default what <data.dir>/usaged.url says, or "+defaultURL+" ($USAGE_URL). Repeatable for tail, meters rebuild and backfill --openmetrics.").
		PlaceHolder("URL").Default(strings.Fields(s.getenv("USAGE_URL"))...).StringsVar(&s.flagURLs)
	app.Flag("token-file", "File that holds the bearer token; by default $USAGE_TOKEN, $USAGE_TOKEN_FILE, or the token that the daemon "+
		"wrote into the data directory, which is sent to this daemon alone.").PlaceHolder("FILE").StringVar(&s.tokenFile)
	app.Flag("data.dir", "The data directory of a daemon on this machine ($USAGE_DATA_DIR).").
		Default(s.env("USAGE_DATA_DIR", "./data")).IsSetByUser(&s.dirGiven).StringVar(&s.dataDir)
	app.Flag("output", "table for people, json for scripts, csv (of summary and meters) for spreadsheets.").Short('o').Default(outputTable).
		EnumVar(&s.output, outputTable, outputJSON, outputCSV)
}

// env is an environment variable, or what stands in for it where it is empty.
func (s *session) env(name, fallback string) string {
	if value := s.getenv(name); value != "" {
		return value
	}
	return fallback
}

// inCSV are the commands whose figures the daemon writes as CSV.
var inCSV = []string{"summary", "queries", "dashboards", "tokens", "users", "meters show"}

// ofReplicas are the commands that ask each replica.
var ofReplicas = []string{"tail", "meters rebuild", "backfill"}

// check looks at the global flags.
func (s *session) check(command string) error {
	if s.dataDir == "" {
		return errors.New("--data.dir must not be empty")
	}
	if len(s.flagURLs) > 1 && !slices.Contains(ofReplicas, command) {
		return fmt.Errorf("--url is given more than once: only %s ask several daemons", strings.Join(ofReplicas, ", "))
	}
	if s.csv() && !slices.Contains(inCSV, command) {
		return fmt.Errorf("--output=csv goes with %s", strings.Join(inCSV, ", "))
	}
	return nil
}

func (s *session) json() bool { return s.output == outputJSON }
func (s *session) csv() bool  { return s.output == outputCSV }

// purpose is what a token is needed for.
type purpose int

const (
	reading purpose = iota
	posting
)

// client returns a client of the daemon, which tries a request once unless an option says otherwise.
func (s *session) client(p purpose, options ...func(*client.Config)) (*client.Client, error) {
	if err := s.findURL(); err != nil {
		return nil, err
	}
	token, err := s.token(p)
	if err != nil {
		return nil, err
	}
	cfg := client.Config{URL: s.url, Token: token, RetryFor: -1, UserAgent: "usagectl"}
	for _, option := range options {
		option(&cfg)
	}
	c, err := client.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.urlSource, err)
	}
	return c, nil
}

// retrying makes a client try again for so long where the daemon is overloaded or restarting.
func retrying(patience time.Duration) func(*client.Config) {
	return func(cfg *client.Config) {
		cfg.RetryFor = patience
		if patience <= 0 {
			cfg.RetryFor = -1
		}
	}
}

// replicas has a session for each daemon that is named, or one for that which is found by itself.
func (s *session) replicas() iter.Seq[*session] {
	urls := s.flagURLs
	if len(urls) == 0 {
		urls = []string{""}
	}
	return func(yield func(*session) bool) {
		for _, address := range urls {
			one := *s
			one.flagURLs = []string{address}
			more := yield(&one)
			s.url, s.urlSource, s.tokenSource, s.unsent = one.url, one.urlSource, one.tokenSource, one.unsent // for the texts of errors
			if !more {
				return
			}
		}
	}
}

func (s *session) findURL() error {
	if len(s.flagURLs) > 0 && s.flagURLs[0] != "" {
		s.url, s.urlSource = s.flagURLs[0], "--url"
		return nil
	}
	path := filepath.Join(s.dataDir, urlFile)
	line, err := readLine(path)
	switch {
	case err == nil:
		s.url, s.urlSource = line, path
	case errors.Is(err, fs.ErrNotExist):
		s.url, s.urlSource = defaultURL, "the default address"
	default:
		return fmt.Errorf("find the daemon's address: %w", err)
	}
	return nil
}

// token finds the bearer token: flag, environment, then what the daemon wrote into its data directory. A token goes only to the daemon
// that it was meant for. That of a data directory belongs to the daemon of this directory, and that of the environment does not go to an
// address which was found in a directory that nobody named: it may have come with somebody else's files.
func (s *session) token(p purpose) (string, error) {
	path := s.tokenFile
	if path == "" {
		named := s.dirGiven || s.getenv("USAGE_DATA_DIR") != "" || s.urlSource != filepath.Join(s.dataDir, urlFile)
		if given := s.getenv("USAGE_TOKEN") + s.getenv("USAGE_TOKEN_FILE"); strings.TrimSpace(given) != "" && !named {
			return "", fmt.Errorf("the address %s was found in %s, and the token of the environment is not sent to an address that was only found: "+
				"name the daemon with --url or the directory with --data.dir", s.url, s.urlSource)
		}
		if token := strings.TrimSpace(s.getenv("USAGE_TOKEN")); token != "" {
			s.tokenSource = "$USAGE_TOKEN"
			return token, nil
		}
		path = s.getenv("USAGE_TOKEN_FILE")
	}
	if path != "" {
		s.tokenSource = path
		token, err := readLine(path)
		if err != nil {
			return "", fmt.Errorf("read the token: %w", err)
		}
		return token, nil
	}
	names := []string{adminFile}
	if p == posting {
		names = []string{producerFile, adminFile}
	}
	for _, name := range names {
		path := filepath.Join(s.dataDir, name)
		info, err := os.Lstat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return "", fmt.Errorf("read the token: %w", err)
		case !info.Mode().IsRegular():
			return "", fmt.Errorf("%s is a link or no file, which usaged does not write: name the file of the token with --token-file", path)
		}
		if own := s.ownURL(); !sameDaemon(own, s.url) {
			s.unsent = path
			continue
		}
		token, err := readLine(path)
		if err != nil {
			return "", fmt.Errorf("read the token: %w", err)
		}
		s.tokenSource, s.unsent = path, ""
		return token, nil
	}
	s.tokenSource = ""
	return "", nil
}

// ownURL is the address of the data directory's daemon, "" where none runs.
func (s *session) ownURL() string {
	line, err := readLine(filepath.Join(s.dataDir, urlFile))
	if err != nil {
		return ""
	}
	return line
}

// sameDaemon says whether two addresses are those of one daemon. The names of this machine for itself are the same.
func sameDaemon(a, b string) bool {
	origin := func(text string) string {
		u, err := url.Parse(text)
		if err != nil || u.Host == "" {
			return text
		}
		host, port := u.Hostname(), u.Port()
		if ip := net.ParseIP(host); strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback() {
			host = "localhost"
		}
		if port == "" {
			port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
		}
		return u.Scheme + "://" + net.JoinHostPort(strings.ToLower(host), port) + strings.TrimSuffix(u.Path, "/")
	}
	return origin(a) == origin(b)
}

// readLine reads a file of one short line.
func readLine(path string) (string, error) {
	const maxLineBytes = 4 << 10
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxLineBytes+1))
	if err != nil {
		return "", err
	}
	line := strings.TrimSpace(string(data))
	if line == "" || len(data) > maxLineBytes || strings.ContainsAny(line, "\r\n") {
		return "", fmt.Errorf("%s: one line of text is due", path)
	}
	return line, nil
}

// reach fails where nobody listens at the daemon's address, so that nothing waits through retries for a daemon that
// was never started.
func (s *session) reach(ctx context.Context) error {
	c, err := s.client(reading)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Get(ctx, "/-/healthy", nil, "")
	if _, absent := errors.AsType[*client.Unreachable](err); absent || ctx.Err() != nil {
		return err
	}
	return nil // whatever it answered, it is there
}

// explain is an error's text with what to do about it.
func (s *session) explain(err error) string {
	if absent, ok := errors.AsType[*client.Unreachable](err); ok {
		return strings.Replace(err.Error(), absent.Error(), s.explainSilence(absent.Err), 1)
	}
	problem, ok := errors.AsType[*client.Problem](err)
	if !ok {
		return err.Error()
	}
	var hint string
	switch {
	case problem.Status == http.StatusUnauthorized && s.unsent != "":
		hint = fmt.Sprintf("%s wants a token, and %s belongs to the daemon of its directory, which is not known to be this one: give it with "+
			"--token-file=%s if it is, or name another", s.url, s.unsent, s.unsent)
	case problem.Status == http.StatusUnauthorized && s.tokenSource == "":
		hint = fmt.Sprintf("%s wants a token and there is none in %s: name its file with --token-file", s.url, s.dataDir)
	case problem.Status == http.StatusUnauthorized:
		hint = fmt.Sprintf("%s does not know the token in %s: name another with --token-file", s.url, s.tokenSource)
	case problem.Status == http.StatusForbidden:
		hint = fmt.Sprintf("the token in %s may not do this: name one of another role with --token-file", s.tokenSource)
	case problem.Code == "" && !problem.Temporary():
		hint = fmt.Sprintf("what answers at %s (%s) may not be usaged", s.url, s.urlSource)
	default:
		return err.Error()
	}
	return strings.Replace(err.Error(), problem.Error(), fmt.Sprintf("%s (%v)", hint, problem), 1)
}

// explainSilence says why no answer came, and what to do about it.
func (s *session) explainSilence(err error) string {
	if found, ok := s.distrusted(err); ok {
		return found + "; " + howToTrust
	}
	return fmt.Sprintf("no daemon answers at %s (%s): %v; start it with `make run` or name another with --url", s.url, s.urlSource, err)
}

// distrusted says that there is somebody, with a certificate that nothing here vouches for.
func (s *session) distrusted(err error) (found string, ok bool) {
	cause, ok := errors.AsType[*tls.CertificateVerificationError](err)
	if !ok {
		return "", false
	}
	return fmt.Sprintf("the certificate of %s (%s) is not trusted: %v", s.url, s.urlSource, cause.Err), true
}

const howToTrust = "name the file of its authority's certificate in SSL_CERT_FILE, or name the daemon with --url as its certificate does"

// colours says whether output may have colours: on a terminal, unless the person has said otherwise (https://no-color.org).
func (s *session) colours() bool {
	return isTerminal(s.stdout) && s.getenv("NO_COLOR") == "" && s.getenv("TERM") != "dumb"
}

// isTerminal says whether a person watches w.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
