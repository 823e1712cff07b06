package embedded

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/common/promslog"
	"github.com/prometheus/prometheus/config"
	"go.yaml.in/yaml/v3"

	"usaged/aggregator/yamlfile"
)

// subsetFile is a Prometheus configuration of which only a part may be used.
type subsetFile struct {
	path string
	root *yaml.Node // a mapping
}

// sections are the keys that are taken at the top, and refused has what is refused below, by path, where * is any element
// and a name that begins with * any that ends so. The text says what to do instead.
var (
	sections = []string{"global", "scrape_configs", "remote_write", "alerting"}
	refused  = []struct{ path, why string }{
		{"global.query_log_file", "queries are not logged here"},
		{"global.scrape_failure_log_file", "scrape failures are in the log of usaged at --log.level=debug"},
		{"scrape_configs.*.*_sd_configs", "only static_configs are known here: name the targets, or let another Prometheus scrape them"},
		{"scrape_configs.*.scrape_failure_log_file", "scrape failures are in the log of usaged at --log.level=debug"},
		{"alerting.alertmanagers.*.*_sd_configs", "only static_configs are known here: name the Alertmanagers"},
		{"remote_write.*.queue_config.max_shards", "samples are sent in order, by one sender, which is how a restart knows where to go on"},
		{"remote_write.*.queue_config.min_shards", "samples are sent in order, by one sender, which is how a restart knows where to go on"},
		{"remote_write.*.queue_config.capacity", "there is no queue in memory: samples are read from the TSDB"},
		{"remote_write.*.queue_config.sample_age_limit", "samples of any age are sent, as long as --storage.tsdb.retention.time keeps them"},
		{"remote_write.*.queue_config.retry_on_http_429", "429 is always retried"},
		{"remote_write.*.failed_request_logging", "requests are not logged"},
		{"remote_write.*.convert_nhcb_to_classic", "classic histograms are sent beside the native ones"},
	}
)

// parse reads the file and says what is wrong with it, every fault with its line.
func (f *subsetFile) parse(content []byte) error {
	var doc yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	if err := decoder.Decode(&doc); err != nil && !errors.Is(err, io.EOF) {
		return f.faults(err, 1)
	}
	if doc.Kind == 0 || doc.Content[0].Tag == "!!null" { // empty, or comments alone
		return nil
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		return f.fault(root.Line, "a Prometheus configuration is a mapping with the keys "+strings.Join(sections, ", "))
	}
	f.root = root
	if err := f.check(); err != nil {
		return err
	}
	if yamlfile.Lookup(root, "scrape_configs") != nil {
		if err := f.checkJobs(); err != nil {
			return err
		}
	}
	if _, err := config.Load(string(content), promslog.NewNopLogger()); err != nil {
		return f.faults(err, f.locate())
	}
	return nil
}

// check looks for what is not taken.
func (f *subsetFile) check() error {
	var errs []error
	for i := 0; i < len(f.root.Content); i += 2 {
		if key := f.root.Content[i]; !slices.Contains(sections, key.Value) {
			errs = append(errs, f.fault(key.Line, fmt.Sprintf("%s is not known here: only %s are", key.Value, strings.Join(sections, ", "))))
		}
	}
	for _, r := range refused {
		for _, key := range keysAt(f.root, strings.Split(r.path, ".")) {
			errs = append(errs, f.fault(key.Line, key.Value+": "+r.why))
		}
	}
	return errors.Join(errs...)
}

// checkJobs refuses the job that is made here.
func (f *subsetFile) checkJobs() error {
	for _, job := range yamlfile.Lookup(f.root, "scrape_configs").Content {
		if name := yamlfile.Lookup(job, "job_name"); name != nil && name.Value == selfJob {
			return f.fault(name.Line, fmt.Sprintf("job_name %s is the scrape of usaged itself, which is there without being configured", selfJob))
		}
	}
	return nil
}

func (f *subsetFile) fault(line int, why string) error {
	return fmt.Errorf("%s:%d: %s", f.path, line, why)
}

var lineOf = regexp.MustCompile(`line (\d+): (.*)`)

// faults gives the errors of a YAML parser the form file:line: reason. line is for those that have none.
func (f *subsetFile) faults(err error, line int) error {
	var errs []error
	for text := range strings.Lines(err.Error()) {
		if m := lineOf.FindStringSubmatch(text); m != nil {
			at, _ := strconv.Atoi(m[1]) // digits
			errs = append(errs, f.fault(at, m[2]))
		}
	}
	if len(errs) == 0 {
		errs = append(errs, f.fault(line, err.Error()))
	}
	return errors.Join(errs...)
}

// locate finds the element that Prometheus refuses without naming a line: the first with which, after those before it, the
// file is refused.
func (f *subsetFile) locate() int {
	global := yamlfile.Lookup(f.root, "global")
	base := &yaml.Node{Kind: yaml.MappingNode}
	if global != nil {
		base.Content = append(base.Content, scalar("global"), global)
	}
	if _, err := (&subsetFile{root: base}).load(); err != nil && global != nil {
		return global.Line
	}
	for _, path := range [][]string{{"scrape_configs"}, {"remote_write"}, {"alerting", "alertmanagers"}} {
		list := f.root
		for _, key := range path {
			list = yamlfile.Lookup(list, key)
		}
		if list == nil {
			continue
		}
		part := subsetFile{root: &yaml.Node{Kind: yaml.MappingNode, Content: slices.Clone(base.Content)}}
		for _, element := range list.Content {
			part.add(element, path...)
			if _, err := part.load(); err != nil {
				return element.Line
			}
		}
	}
	return f.root.Line
}

// load gives the configuration to Prometheus.
func (f *subsetFile) load() (*config.Config, error) {
	text, err := yaml.Marshal(f.root)
	if err != nil {
		return nil, fmt.Errorf("write the configuration of Prometheus: %w", err)
	}
	settings, err := config.Load(string(text), promslog.NewNopLogger())
	if err != nil {
		return nil, fmt.Errorf("configure Prometheus: %w", err)
	}
	return settings, nil
}

// add appends a value to the list at a path, and makes the path where it is not there.
func (f *subsetFile) add(value any, path ...string) {
	at := f.root
	for i, key := range path {
		next := yamlfile.Lookup(at, key)
		if next == nil || next.Tag == "!!null" {
			kind := yaml.MappingNode
			if i == len(path)-1 {
				kind = yaml.SequenceNode
			}
			made := yaml.Node{Kind: kind}
			if next == nil {
				next = &made
				at.Content = append(at.Content, scalar(key), next)
			} else {
				*next = made
			}
		}
		at = next
	}
	node, ok := value.(*yaml.Node)
	if !ok {
		node = &yaml.Node{}
		if err := node.Encode(value); err != nil {
			panic(err) // maps of strings, numbers and lists are what yaml can always encode
		}
	}
	at.Content = append(at.Content, node)
}

// keysAt returns the keys that a path of refused leads to.
func keysAt(n *yaml.Node, path []string) (keys []*yaml.Node) {
	if n.Kind == yaml.SequenceNode && path[0] == "*" {
		for _, element := range n.Content {
			keys = append(keys, keysAt(element, path[1:])...)
		}
	}
	if n.Kind != yaml.MappingNode {
		return keys
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		suffix, any := strings.CutPrefix(path[0], "*")
		switch {
		case key.Value != path[0] && !(any && suffix != "" && strings.HasSuffix(key.Value, suffix)):
		case len(path) == 1:
			keys = append(keys, key)
		default:
			keys = append(keys, keysAt(value, path[1:])...)
		}
	}
	return keys
}

func scalar(value string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Value: value} }
