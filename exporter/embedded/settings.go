package embedded

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"
	"github.com/prometheus/prometheus/promql/parser"
	"go.yaml.in/yaml/v3"

	"usaged/aggregator/yamlfile"
	"usaged/exporter/remotewrite"
)

const (
	// scrapeInterval and evaluationInterval hold where the file has no others. Prometheus' default is a minute.
	scrapeInterval     = 15 * time.Second
	evaluationInterval = time.Minute
)

// load reads the configuration file and the operator's rules, checks them, and adds to the file what comes by flags and the
// scrape of the daemon itself. Every error about a file names it and the line.
func (cfg *Config) load() (*config.Config, error) {
	file := subsetFile{path: cfg.ConfigFile, root: &yaml.Node{Kind: yaml.MappingNode}}
	var errs []error
	if cfg.ConfigFile != "" {
		content, err := os.ReadFile(cfg.ConfigFile)
		if err != nil {
			return nil, fmt.Errorf("--config.file: %w", err)
		}
		errs = append(errs, file.parse(content))
	}
	if _, err := newRuleLoader(cfg.Rules, cfg.RulesFile, parser.NewParser(parser.Options{}), cfg.Log); err != nil {
		errs = append(errs, err)
	}
	errs = append(errs, cfg.addFlags(&file))
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	file.addDefaults(cfg.Instance)
	settings, err := file.load()
	if err != nil {
		return nil, err
	}
	settings.SetDirectory(filepath.Dir(cfg.ConfigFile))
	if cfg.KeepRecorded {
		keepRecorded(settings.RemoteWriteConfigs)
	}
	return settings, file.checkEndpoints(settings.RemoteWriteConfigs)
}

// recordedNames are the metrics that the shipped rules make.
var recordedNames = relabel.MustNewRegexp("usage:.*|ALERTS|ALERTS_FOR_STATE")

// keepRecorded leaves out what rules have made, unless an endpoint says itself what it wants: an empty list is all.
func keepRecorded(endpoints []*config.RemoteWriteConfig) {
	for _, endpoint := range endpoints {
		if endpoint.WriteRelabelConfigs != nil {
			continue
		}
		drop := relabel.DefaultRelabelConfig
		drop.SourceLabels = model.LabelNames{model.MetricNameLabel}
		drop.Regex, drop.Action, drop.NameValidationScheme = recordedNames, relabel.Drop, model.UTF8Validation
		endpoint.WriteRelabelConfigs = []*relabel.Config{&drop}
	}
}

// sendsRecorded says whether an endpoint gets what rules have made.
func sendsRecorded(endpoint *config.RemoteWriteConfig) bool {
	recorded := labels.NewBuilder(labels.FromStrings(model.MetricNameLabel, "usage:health:score"))
	return relabel.ProcessBuilder(recorded, endpoint.WriteRelabelConfigs...)
}

// checkEndpoints says what is wrong with endpoints of remote write that Prometheus' own parser does not look at.
func (f *subsetFile) checkEndpoints(endpoints []*config.RemoteWriteConfig) error {
	var errs []error
	nodes := yamlfile.Lookup(f.root, "remote_write")
	seen := map[string]bool{}
	for i, endpoint := range endpoints {
		name := remotewrite.Name(endpoint)
		err := remotewrite.Check(endpoint)
		if seen[name] {
			err = errors.New("it is there twice: give one of them another name")
		}
		seen[name] = true
		if err == nil {
			continue
		}
		err = fmt.Errorf("remote write to %s: %w", name, err)
		if line := nodes.Content[i].Line; line > 0 { // one of a flag has none
			err = f.fault(line, err.Error())
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// addFlags adds what the command line names.
func (cfg *Config) addFlags(file *subsetFile) error {
	var errs []error
	for _, text := range cfg.RemoteWriteURLs {
		if _, err := httpURL(text); err != nil {
			errs = append(errs, fmt.Errorf("--remote-write.url: %w", err))
			continue
		}
		file.add(map[string]any{"url": text, "send_exemplars": true, "send_native_histograms": true}, "remote_write")
	}
	for _, text := range cfg.AlertmanagerURLs {
		u, err := httpURL(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("--alertmanager.url: %w", err))
			continue
		}
		entry := map[string]any{
			"scheme":         u.Scheme,
			"path_prefix":    u.Path,
			"static_configs": []any{map[string]any{"targets": []string{u.Host}}},
		}
		if password, ok := u.User.Password(); ok {
			entry["basic_auth"] = map[string]any{"username": u.User.Username(), "password": password}
		}
		file.add(entry, "alerting", "alertmanagers")
	}
	return errors.Join(errs...)
}

func httpURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, errors.New("a URL must be http://host… or https://host…") // without what was given, which may hold a password
	}
	return u, nil
}

// addDefaults adds the intervals, where the file has none, and the scrape of the daemon itself.
func (f *subsetFile) addDefaults(instance string) {
	global := yamlfile.Lookup(f.root, "global")
	if global == nil {
		global = &yaml.Node{Kind: yaml.MappingNode}
		f.root.Content = append(f.root.Content, scalar("global"), global)
	}
	for key, value := range map[string]time.Duration{"scrape_interval": scrapeInterval, "evaluation_interval": evaluationInterval} {
		if yamlfile.Lookup(global, key) == nil {
			global.Content = append(global.Content, scalar(key), scalar(value.String()))
		}
	}
	f.add(map[string]any{
		"job_name":                         selfJob,
		"scrape_protocols":                 []string{"PrometheusProto", "OpenMetricsText1.0.0"}, // protobuf has start times and native histograms
		"scrape_native_histograms":         true,
		"always_scrape_classic_histograms": true,
		"enable_compression":               false, // it does not leave the process
		"static_configs":                   []any{map[string]any{"targets": []string{instance}}},
	}, "scrape_configs")
}
