// Command generate writes the dashboards that are shipped: one file of classic JSON each, as Grafana's file provisioning and
// HTTP API take it. It is run from the root of the project by make dashboards.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("usage: generate RUNBOOKS DIRECTORY, as generate docs/runbooks.md dashboards")
	}
	runbooks, err := os.ReadFile(args[0])
	if err != nil {
		return fmt.Errorf("read the runbooks: %w", err)
	}
	files, err := render(string(runbooks))
	if err != nil {
		return err
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(args[1], name), content, 0o644); err != nil {
			return fmt.Errorf("write a dashboard: %w", err)
		}
	}
	return nil
}

// render returns all dashboards by the names of their files. The text of the runbooks is a dashboard too, so that what links
// to it works wherever Grafana is.
func render(runbooks string) (map[string][]byte, error) {
	plugins.RegisterDefaultPlugins() // by which encode reads panels and queries back
	books, err := readRunbooks(runbooks)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for _, p := range []*page{
		executive(), systemManager(), nl2sql(), llm(), publishing(), operations(books), runbookPage(books),
	} {
		d, err := p.build()
		if err != nil {
			return nil, fmt.Errorf("build %q: %w", p.title, err)
		}
		if files[p.name+".json"], err = encode(d); err != nil {
			return nil, fmt.Errorf("write %q: %w", p.title, err)
		}
	}
	return files, nil
}

// encode writes what can be read back strictly, so that no field is misspelt.
func encode(d classic) ([]byte, error) {
	data, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	var again classic
	err = again.UnmarshalJSONStrict(data)
	if problems, ok := errors.AsType[cog.BuildErrors](err); err != nil && (!ok || len(problems) > 0) { // no problems come as an empty list
		return nil, fmt.Errorf("read back: %w", err)
	}
	return append(data, '\n'), nil
}
