package embedded

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"sync"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

// shippedPrefix tells the names of shipped rule files from paths.
const shippedPrefix = "shipped:"

// ruleLoader loads the shipped rules and the operator's for the rule manager. A rule of the operator's replaces all shipped
// rules that record under its name, or alert under it.
type ruleLoader struct {
	shipped fs.FS
	names   []string // of the shipped files
	file    string   // the operator's, or empty
	parser  parser.Parser
	log     *slog.Logger

	mu     sync.Mutex
	loaded map[string]*rulefmt.RuleGroups
}

func newRuleLoader(shipped fs.FS, file string, p parser.Parser, log *slog.Logger) (*ruleLoader, error) {
	names, err := fs.Glob(shipped, "*.yml")
	if err != nil {
		return nil, fmt.Errorf("list the shipped rules: %w", err)
	}
	l := &ruleLoader{shipped: shipped, names: names, file: file, parser: p, log: log}
	return l, l.reload()
}

// files returns the identifiers of all files, for the rule manager.
func (l *ruleLoader) files() (list []string) {
	for _, name := range l.names {
		list = append(list, shippedPrefix+name)
	}
	if l.file != "" {
		list = append(list, l.file)
	}
	return list
}

// reload reads all files. On an error what was loaded before stays.
func (l *ruleLoader) reload() error {
	loaded := map[string]*rulefmt.RuleGroups{}
	var errs []error
	replaced := map[string]bool{}
	if l.file != "" {
		content, err := os.ReadFile(l.file)
		if err != nil {
			return fmt.Errorf("--rules.file: %w", err)
		}
		own, err := l.parseFile(l.file, content)
		if err != nil {
			errs = append(errs, fmt.Errorf("--rules.file: %w", err))
		} else {
			loaded[l.file] = own
			replaced = names(own)
		}
	}
	for _, name := range l.names {
		content, err := fs.ReadFile(l.shipped, name)
		if err != nil {
			return fmt.Errorf("read the shipped rules: %w", err)
		}
		rules, err := l.parseFile(shippedPrefix+name, content)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		loaded[shippedPrefix+name] = without(rules, replaced)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.loaded = loaded
	return nil
}

func (l *ruleLoader) parseFile(name string, content []byte) (*rulefmt.RuleGroups, error) {
	rules, errs := rulefmt.Parse(content, false, model.UTF8Validation, l.parser, l.log)
	for i, err := range errs {
		errs[i] = fmt.Errorf("%s: %w", name, err)
	}
	return rules, errors.Join(errs...)
}

// Load returns what reload has read, because the manager asks file by file, and one replaces rules of the others.
func (l *ruleLoader) Load(identifier string, _ bool, _ model.ValidationScheme) (*rulefmt.RuleGroups, []error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if rules := l.loaded[identifier]; rules != nil {
		return rules, nil
	}
	return nil, []error{fmt.Errorf("%s: not loaded", identifier)}
}

// Parse parses an expression.
func (l *ruleLoader) Parse(query string) (parser.Expr, error) { return l.parser.ParseExpr(query) }

// ruleName is what a rule records or alerts as.
func ruleName(r *rulefmt.Rule) string { return "record " + r.Record + ", alert " + r.Alert }

func names(groups *rulefmt.RuleGroups) map[string]bool {
	all := map[string]bool{}
	for _, g := range groups.Groups {
		for i := range g.Rules {
			all[ruleName(&g.Rules[i])] = true
		}
	}
	return all
}

// without removes rules, and the groups that are empty then.
func without(groups *rulefmt.RuleGroups, replaced map[string]bool) *rulefmt.RuleGroups {
	for i := range groups.Groups {
		groups.Groups[i].Rules = slices.DeleteFunc(groups.Groups[i].Rules, func(r rulefmt.Rule) bool { return replaced[ruleName(&r)] })
	}
	groups.Groups = slices.DeleteFunc(groups.Groups, func(g rulefmt.RuleGroup) bool { return len(g.Rules) == 0 })
	return groups
}
