package rollup_test

import (
	"flag"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// The property tests run 20 cases each, or 300 where USAGE_TEST_FULL is set; -rapid.checks overrides both.
func TestMain(m *testing.M) {
	checks := "20"
	if os.Getenv("USAGE_TEST_FULL") != "" {
		checks = "300"
	}
	if err := flag.Set("rapid.checks", checks); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}
