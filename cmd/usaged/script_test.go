package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"usaged/tools/waittest"
)

// TestScripts runs testdata/script against the daemon and the tool as users build them.
func TestScripts(t *testing.T) {
	bin := tools(t)
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"),
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", bin+string(os.PathListSeparator)+env.Getenv("PATH"))
			return nil
		},
		Cmds:          map[string]func(*testscript.TestScript, bool, []string){"await": await},
		UpdateScripts: *update,
	})
}

// await runs a command until it succeeds and its output matches a pattern: await PATTERN COMMAND ARG...
func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: await pattern command arg...")
	}
	pattern, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	ts.Check(waittest.Retry(func() error {
		if err := ts.Exec(args[1], args[2:]...); err != nil {
			return err
		}
		if out := ts.ReadFile("stdout"); !pattern.MatchString(out) {
			return fmt.Errorf("no match for %q in %q", args[0], out)
		}
		return nil
	}))
}
