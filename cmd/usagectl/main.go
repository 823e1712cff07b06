// Usagectl is the tool of usaged's operators and of the developers whose services send events: it sends, imports,
// reads, measures, examines the daemon with its data directory and its Redis, and looks into the journal of one that is
// stopped.
//
// Exit codes: 0 done; 1 it failed, or something was refused; 2 the command line is wrong.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/common/version"
)

const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // from now on a second signal kills the process
	os.Exit(run(ctx, os.Args[1:], &process{
		stdin:  os.Stdin,
		stdout: os.Stdout,
		stderr: os.Stderr,
		getenv: os.Getenv,
		now:    time.Now,
	}))
}

// process is what the tool sees of its surroundings.
type process struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string
	now            func() time.Time
}

// command runs a subcommand whose flags are parsed.
type command func(ctx context.Context, s *session) error

// usageError is a mistake in the command line that the flag parser cannot see.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// errReported is a failure about which everything has been said.
var errReported = errors.New("reported")

// run is the whole tool.
func run(ctx context.Context, args []string, p *process) int {
	s := &session{process: p}
	name, commands, code := parse(args, s)
	if code >= 0 {
		return code
	}
	err := commands[name](ctx, s)
	if err == nil {
		return exitOK
	}
	if errors.Is(err, errReported) {
		return exitFailure
	}
	fmt.Fprintf(p.stderr, "usagectl: %s\n", printableLines(s.explain(err)))
	if _, wrong := errors.AsType[usageError](err); wrong {
		return exitUsage
	}
	return exitFailure
}

// stdinArgument stands for the argument "-", of which the flag parser would make an empty string. No file has this name.
const stdinArgument = "\x00stdin"

// exited carries an exit code out of the flag parser, which expects its terminate function not to return.
type exited int

// parse reads the command line. code is negative where a command is to be run.
func parse(args []string, s *session) (name string, commands map[string]command, code int) {
	defer func() {
		if r := recover(); r != nil {
			status, ok := r.(exited)
			if !ok {
				panic(r)
			}
			code = int(status)
		}
	}()
	app := kingpin.New("usagectl", "Send usage events to usaged, import them from files, read the figures, measure and examine the daemon and "+
		"look into its journal.")
	app.Terminate(func(status int) { panic(exited(status)) })
	app.UsageWriter(s.stdout)
	app.ErrorWriter(s.stderr)
	app.HelpFlag.Short('h')
	app.Version(version.Print("usagectl"))
	s.addFlags(app)
	commands = map[string]command{}
	for _, add := range []func(*kingpin.Application, *session, map[string]command){
		addSend, addImport, addSimulate, addSummary, addTop, addQuery, addMeters, addBackfill, addLedger, addHealth, addQuiet, addClock, addLabels, addRetention, addTail, addProducers, addDoctor, addBench,
		addJournal, addToken, addCompletion, addVersion,
	} {
		add(app, s, commands)
	}
	args = slices.Clone(args)
	for i, arg := range args {
		if arg == "-" {
			args[i] = stdinArgument
		}
	}
	if names := subcommands(app, args); len(names) > 0 {
		fmt.Fprintln(s.stdout, strings.Join(names, "\n"))
		return "", nil, exitOK
	}
	name, err := app.Parse(args)
	if err == nil {
		err = s.check(name)
	} else {
		err = nameFlag(app, args, err)
	}
	if err != nil {
		fmt.Fprintf(s.stderr, "usagectl: %s; try `usagectl --help`\n", printableLines(err.Error()))
		return "", nil, exitUsage
	}
	return name, commands, -1
}

// nameFlag adds to an error of the flag parser which flag it is about, which the parser leaves out where a value is wrong.
func nameFlag(app *kingpin.Application, args []string, err error) error {
	parsed, parseErr := app.ParseContext(args)
	if parseErr != nil {
		return err
	}
	for _, e := range parsed.Elements {
		clause, ok := e.Clause.(*kingpin.FlagClause)
		if !ok || e.Value == nil {
			continue
		}
		flag := clause.Model()
		if again := flag.Value.Set(*e.Value); again == nil || again.Error() != err.Error() {
			continue
		}
		if _, ok := errors.AsType[*strconv.NumError](err); ok {
			return fmt.Errorf("--%s: %q is not a number", flag.Name, *e.Value)
		}
		return fmt.Errorf("--%s: %w", flag.Name, err)
	}
	return err
}
