package sqlite_test

import (
	"database/sql"
	"strings"
	"testing"

	"usaged/aggregator/meter"
)

func TestViews(t *testing.T) {
	t.Parallel()
	cfg := config(t, 16)
	s := open(t, cfg)
	for p, user := range map[int]string{3: "alice", 7: "bob"} {
		b := batch(0, 0)
		b.Partition, b.Last = p, 10
		b.Totals = meter.Totals{{Family: meter.FamilyEvents, A: "t"}: 4}
		b.Days[day].Types["t"] = 4
		b.Days[day].Rollups = map[meter.Rollup]meter.Cells{
			meter.TypeRollup("t"):                              {user: 4},
			meter.MeterRollup("queries", meter.ByReference):    {"SELECT 1": 2},
			meter.MeterRollup("llm-tokens", meter.ByUser):      {user: 100},
			meter.MeterRollup("dashboards", meter.ByUser):      {},
			meter.MeterRollup("llm-tokens", meter.ByReference): {"gpt": 0},
		}
		mustApply(t, s, b)
	}
	db := shell(t, cfg.Path)
	for _, test := range []struct{ query, want string }{
		{"SELECT day, event_type, user_id, count FROM events ORDER BY user_id", "2026-11-23|t|alice|4\n2026-11-23|t|bob|4\n"},
		{"SELECT count FROM events WHERE user_id = 'bob' AND day = '2026-11-23'", "4\n"},
		{"SELECT * FROM daily", "2026-11-23|t|8\n"},
		{"SELECT * FROM meters ORDER BY meter, dim, key", "2026-11-23|llm-tokens|ref|gpt|0\n2026-11-23|llm-tokens|user|alice|100\n" +
			"2026-11-23|llm-tokens|user|bob|100\n2026-11-23|queries|ref|SELECT 1|4\n"},
		{"SELECT producer, partition, offset, session FROM producers ORDER BY partition", "p|3|10|1\np|7|10|1\n"},
		{"SELECT * FROM totals", "p|events|t||8\n"},
		{"SELECT name FROM meta ORDER BY name", "epoch\npartitions\nschema\n"},
	} {
		if got := query(t, db, test.query); got != test.want {
			t.Errorf("%s\ngot\n%swant\n%s", test.query, got, test.want)
		}
	}
}

// query returns the rows of a query as the sqlite3 shell prints them.
func query(t *testing.T, db *sql.DB, query string) string {
	t.Helper()
	rows, err := db.Query(query)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for rows.Next() {
		values, dest := make([]string, len(columns)), make([]any, len(columns))
		for i := range values {
			dest[i] = &values[i]
		}
		if err := rows.Scan(dest...); err != nil {
			t.Fatal(err)
		}
		text.WriteString(strings.Join(values, "|") + "\n")
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return text.String()
}
