package price_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"usaged/rules/price"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestTable reads a table as a spreadsheet writes it, and again after it was edited, well and badly.
func TestTable(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "prices.csv")
	write(t, path, "\xef\xbb\xbf# what we pay\r\nmodel, completion ,prompt,other\r\n\r\n\"a, b\",15,$3,\r\nfree,0,0,0.5\r\nunknown,,,\r\n")
	table, err := price.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	expect := func(want string) {
		t.Helper()
		head := "# HELP usage_llm_price_usd_per_million USD per million tokens of a model, by kind of token, as --prices.file has it.\n" +
			"# TYPE usage_llm_price_usd_per_million gauge\n"
		if want == "" {
			head = ""
		}
		if err := testutil.CollectAndCompare(table, strings.NewReader(head+want)); err != nil {
			t.Error(err)
		}
	}
	first := `usage_llm_price_usd_per_million{kind="completion",model="a, b"} 15
usage_llm_price_usd_per_million{kind="completion",model="free"} 0
usage_llm_price_usd_per_million{kind="other",model="free"} 0.5
usage_llm_price_usd_per_million{kind="prompt",model="a, b"} 3
usage_llm_price_usd_per_million{kind="prompt",model="free"} 0
`
	expect(first)
	if problems, err := testutil.CollectAndLint(table); err != nil || len(problems) > 0 {
		t.Errorf("the metrics are wrong: %v, %v", problems, err)
	}

	write(t, path, "model,prompt\na,three\n")
	if err := table.Reload(); err == nil || err.Error() != path+`:2: prompt: "three" is no price: give one as 2.50` {
		t.Errorf("reload of a wrong table: %v", err)
	}
	expect(first)
	write(t, path, "model,prompt\nfree,1e-2\n")
	if err := table.Reload(); err != nil {
		t.Error(err)
	}
	expect("usage_llm_price_usd_per_million{kind=\"prompt\",model=\"free\"} 0.01\n")
	write(t, path, "")
	if err := table.Reload(); err != nil {
		t.Error(err)
	}
	expect("")
}

// TestFaults expects every fault with its line.
func TestFaults(t *testing.T) {
	t.Parallel()
	var many strings.Builder
	for i := range price.MaxModels + 1 {
		many.WriteString(strings.Repeat("m", i+1) + ",1\n")
	}
	path := filepath.Join(t.TempDir(), "prices.csv")
	for text, want := range map[string]string{
		"model;prompt\na;1\n":                     `:1: the column "model;prompt" is none of model, prompt, completion, other|:1: there is no column model: the first line names the columns, as model,prompt,completion`,
		"large-1,3,15\n":                          `:1: the column "large-1" is none|:1: the column "3" is|:1: the column "15" is|:1: there is no column model`,
		"model,prompt,prompt\n":                   ":1: there are two columns prompt",
		"model,prompt\na,1\n# and\na,2\n,3\n":     ":4: a has its prices in line 2 already|:5: the model has no name",
		"model,prompt\na,-1\nb,NaN\nc,Inf\nd,x\n": `:2: prompt: "-1" is no price: give one as 2.50|:3: prompt: "NaN" is|:4: prompt: "Inf" is|:5: prompt: "x" is`,
		"model,prompt\na,1\nmod\xe8le,2\n":        ":3: it is not UTF-8: save the table as CSV UTF-8",
		"model,prompt\na,2,50\n":                  ":2: wrong number of fields: it is a table with commas between the cells, and as many in each line",
		"model,prompt\n" + many.String():          ":1: there are 1001 models: at most 1000 can have prices",
	} {
		write(t, path, text)
		err := price.Check(path)
		if err == nil {
			t.Errorf("%.40q passes", text)
			continue
		}
		lines, wants := strings.Split(err.Error(), "\n"), strings.Split(want, "|")
		if len(lines) != len(wants) {
			t.Errorf("%.40q: %v, want %d faults", text, err, len(wants))
			continue
		}
		for i := range wants {
			if !strings.HasPrefix(lines[i], path+wants[i]) {
				t.Errorf("%.40q: %s, want %s", text, lines[i], wants[i])
			}
		}
	}
	if err := price.Check(filepath.Join(t.TempDir(), "absent.csv")); err == nil || !strings.HasPrefix(err.Error(), "--prices.file: ") {
		t.Errorf("no file: %v", err)
	}
	if err := price.Check(""); err != nil {
		t.Errorf("no table: %v", err)
	}
}
