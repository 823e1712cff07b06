// Command grafana puts the dashboards into a Grafana that there is, through its HTTP API: a folder, a data source where one is
// named, and the dashboards. It may be repeated: what is as it should be is left alone. It says what it changed.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"

	"github.com/alecthomas/kingpin/v2"

	"usaged/dashboards"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	context.AfterFunc(ctx, stop)
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// config is what the flags say. Tokens are read from files, and are in no message.
type config struct {
	url, tokenFile             string
	sourceURL, sourceTokenFile string
}

func parseConfig(args []string) (c config, err error) {
	app := kingpin.New("grafana", "Put usaged's dashboards into a Grafana.").Terminate(nil)
	app.Flag("url", "Address of Grafana, as https://grafana.example.com.").Required().StringVar(&c.url)
	app.Flag("token-file", "File with the token of a service account: role Editor, and Admin where it is to make the data source.").
		Required().StringVar(&c.tokenFile)
	app.Flag("source-url", "What Grafana is to ask: usaged's address with /prometheus behind it, or a Prometheus. Empty: no data source is made.").
		StringVar(&c.sourceURL)
	app.Flag("source-token-file", "File with a viewer's token of usaged. Empty: none is sent.").StringVar(&c.sourceTokenFile)
	if _, err := app.Parse(args); err != nil {
		return c, fmt.Errorf("%w; see --help", err)
	}
	if c.sourceTokenFile != "" && c.sourceURL == "" {
		return c, fmt.Errorf("--source-token-file goes with --source-url")
	}
	c.url = strings.TrimRight(c.url, "/")
	return c, nil
}

func run(ctx context.Context, args []string, out io.Writer) error {
	c, err := parseConfig(args)
	if err != nil {
		return err
	}
	token, err := readToken(c.tokenFile)
	if err != nil {
		return err
	}
	g := &grafana{url: c.url, token: token, out: out}
	if err := g.folder(ctx); err != nil {
		return err
	}
	if c.sourceURL != "" {
		sourceToken := ""
		if c.sourceTokenFile != "" {
			if sourceToken, err = readToken(c.sourceTokenFile); err != nil {
				return err
			}
		}
		if err := g.source(ctx, c.sourceURL, sourceToken); err != nil {
			return err
		}
	}
	return g.dashboards(ctx, dashboards.FS)
}

func readToken(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read a token: %w", err)
	}
	token := strings.TrimSpace(string(data))
	if token == "" {
		return "", fmt.Errorf("%s is empty: put a token into it", path)
	}
	return token, nil
}
