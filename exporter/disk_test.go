package exporter_test

import (
	"path/filepath"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"usaged/exporter"
)

func TestDisk(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(exporter.NewDisk(t.TempDir()))
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range families {
		values[f.GetName()] = f.GetMetric()[0].GetGauge().GetValue()
	}
	free, size := values["usaged_data_free_bytes"], values["usaged_data_size_bytes"]
	if free <= 0 || size < free {
		t.Errorf("%v bytes of %v are free", free, size)
	}
}

func TestDiskIsAbsentWhereItCannotBeAsked(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	reg.MustRegister(exporter.NewDisk(filepath.Join(t.TempDir(), "gone")))
	families, err := reg.Gather()
	if err != nil || len(families) != 0 {
		t.Errorf("%v and error %v for a directory that does not exist, want nothing", families, err)
	}
}
