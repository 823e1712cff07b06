// Usaged is the usage-analytics daemon: it takes usage events over HTTP, makes them durable, counts each once, and serves
// the counts as an API and as Prometheus metrics.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"usaged/aggregator/clock"
)

func main() {
	os.Exit(Main(os.Args[1:], clock.ThisMachine()))
}

// Main runs the daemon until SIGINT or SIGTERM and returns its exit code: 0 after a clean stop, 2 where the command line
// is wrong, 1 after any other error. machine has the clocks of the machine.
func Main(args []string, machine clock.Machine) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // from now on a second signal kills the process
	err := run(ctx, args, os.Stdout, os.Stderr, machine)
	var usage *usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &usage):
		fmt.Fprintf(os.Stderr, "usaged: %s, try --help\n", oneLine(err))
		return 2
	default:
		fmt.Fprintf(os.Stderr, "usaged: %s\n", oneLine(err))
		return 1
	}
}

// oneLine writes an error on one line, also one that was joined from several, or that a YAML parser has made.
func oneLine(err error) string {
	var text strings.Builder
	for line := range strings.Lines(err.Error()) {
		switch {
		case text.Len() == 0:
		case strings.HasSuffix(text.String(), ":"):
			text.WriteString(" ")
		default:
			text.WriteString("; ")
		}
		text.WriteString(strings.TrimSpace(line))
	}
	return text.String()
}
