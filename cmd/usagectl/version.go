package main

import (
	"context"
	"fmt"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/common/version"
)

func addVersion(app *kingpin.Application, _ *session, commands map[string]command) {
	cmd := app.Command("version", "Print the version.")
	commands[cmd.FullCommand()] = func(_ context.Context, s *session) error {
		_, err := fmt.Fprintln(s.stdout, version.Print("usagectl"))
		return err
	}
}
