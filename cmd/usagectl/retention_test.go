package main

import (
	"net/http"
	"strings"
	"testing"
)

func TestRetention(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, answer, want string }{
		{"nothing is pending", `{"days":30,"kept_days":30}`, "30 days can be asked for and are kept\n"},
		{"days are pending", `{"days":7,"kept_days":30,"pending":{"due":"2026-11-24T08:00:00Z","from":"2026-10-25","to":"2026-11-13","events":1234,"raw_events":99}}`,
			"7 days can be asked for, and 30 are kept until 2026-11-24T08:00:00Z; then the days from 2026-10-25 to 2026-11-13 with 1,234 events and " +
				"99 raw events of the journal will be deleted\n" +
				"to keep it start the daemon with --retention.days=30; to have it deleted now run `usagectl retention apply`\n"},
		{"empty days are pending", `{"days":7,"kept_days":30,"pending":{"due":"2026-11-24T08:00:00Z","events":0,"raw_events":0}}`,
			"7 days can be asked for, and 30 are kept until 2026-11-24T08:00:00Z; then 0 raw events of the journal will be deleted\n" +
				"to keep it start the daemon with --retention.days=30; to have it deleted now run `usagectl retention apply`\n"},
		{"what was kept is not known", `{"days":7,"kept_days":3660,"kept_unknown":true,"pending":{"due":"2026-11-24T08:00:00Z","events":0,"raw_events":9}}`,
			"7 days can be asked for; it is not known how many were kept before, so everything is kept until 2026-11-24T08:00:00Z; then 9 raw events " +
				"of the journal will be deleted\n" +
				"to keep it start the daemon with --retention.days=N, as many days as before; to have it deleted now run `usagectl retention apply`\n"},
		{"days are restored", `{"days":30,"kept_days":30,"restored":{"phase":"running","from":"2026-10-25","to":"2026-11-13","days":20,"events":5000,"done":1200}}`,
			"30 days can be asked for and are kept\n" +
				"20 days from 2026-10-25 to 2026-11-13 had been deleted while fewer were kept, and are counted again from the journal: 1,200 of 5,000 events read\n"},
		{"days have been restored in part", `{"days":30,"kept_days":30,"restored":{"phase":"done","from":"2026-10-25","to":"2026-11-13","days":20,` +
			`"events":5000,"done":5000,"incomplete_days":["2026-10-25","2026-10-26"]}}`,
			"30 days can be asked for and are kept\n" +
				"20 days from 2026-10-25 to 2026-11-13 had been deleted while fewer were kept, and have been counted again from the journal\n" +
				"2 days may lack events that have left the journal, or that another replica has not counted again: 2026-10-25, 2026-10-26\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			for _, args := range [][]string{{"retention"}, {"retention", "show"}, {"retention", "apply"}} {
				tl := answering(t, http.StatusOK, tc.answer)
				if code := tl.run(t, args...); code != exitOK || tl.stdout.String() != tc.want {
					t.Errorf("%v: exit code %d, output\n%s%s\nwant\n%s", args, code, tl.stdout.String(), tl.stderr.String(), tc.want)
				}
			}
			tl := answering(t, http.StatusOK, tc.answer)
			if code := tl.run(t, "--output=json", "retention"); code != exitOK || !strings.Contains(tl.stdout.String(), `"kept_days"`) {
				t.Errorf("as JSON: exit code %d, %s%s", code, tl.stdout.String(), tl.stderr.String())
			}
		})
	}
}
