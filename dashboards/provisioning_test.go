package dashboards_test

import (
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// TestProvisioningFiles expects the folder of make grafana, data sources that can exist beside each other, and no token.
func TestProvisioningFiles(t *testing.T) {
	t.Parallel()
	var provider struct {
		Providers []struct {
			FolderUID string `yaml:"folderUid"`
			Type      string
			Options   struct{ Path string }
		}
	}
	decode(t, "provisioning/dashboards/usaged.yml", &provider)
	if len(provider.Providers) != 1 || provider.Providers[0].FolderUID != "usaged" || provider.Providers[0].Type != "file" || provider.Providers[0].Options.Path == "" {
		t.Errorf("providers %+v", provider.Providers)
	}
	files, err := filepath.Glob("provisioning/datasources/*.yml")
	if err != nil || len(files) != 2 {
		t.Fatalf("data sources %v, %v; want two", files, err)
	}
	seen := map[string]bool{}
	for _, file := range files {
		var sources struct {
			DataSources []struct {
				Name, UID, Type, URL string
				SecureJSONData       map[string]string `yaml:"secureJsonData"`
			} `yaml:"datasources"`
		}
		decode(t, file, &sources)
		if len(sources.DataSources) != 1 {
			t.Fatalf("%s has %d data sources", file, len(sources.DataSources))
		}
		s := sources.DataSources[0]
		ours := s.UID == "usaged"
		if s.Type != "prometheus" || seen[s.UID] || seen[s.Name] || strings.HasSuffix(s.URL, "/prometheus") != ours {
			t.Errorf("%s: %+v", file, s)
		}
		if secret := s.SecureJSONData["httpHeaderValue1"]; ours && !strings.HasPrefix(secret, "Bearer $__file{") {
			t.Errorf("%s sends %q", file, secret)
		}
		seen[s.UID], seen[s.Name] = true, true
	}
}

func decode(t *testing.T, file string, into any) {
	t.Helper()
	if err := yaml.Unmarshal([]byte(read(t, file)), into); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}
