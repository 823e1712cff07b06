package main

import (
	"net/http"
	"strings"
	"testing"
)

func TestClock(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, answer, want string }{
		{"it is right", `{"time":"2026-11-23T12:00:00Z","wall":"2026-11-23T12:00:00Z","jump_seconds":0,"deletion":"2026-11-23T12:00:00Z"}`,
			"the time is       2026-11-23T12:00:00Z\nthe wall clock is 2026-11-23T12:00:00Z, which is right\n"},
		{"it has jumped ahead", `{"time":"2026-11-23T12:00:00Z","wall":"2026-11-25T12:00:00Z","jump_seconds":172800,"deletion":"2026-11-23T12:00:00Z"}`,
			"the time is       2026-11-23T12:00:00Z\nthe wall clock is 2026-11-25T12:00:00Z, 2 days ahead, because it has jumped: set it right, or run `usagectl clock accept` if it is right now\n"},
		{"it has jumped back, and the daemon was off", `{"time":"2026-11-23T12:00:00Z","wall":"2026-11-22T12:00:00Z","jump_seconds":-86400,"deletion":"2026-11-20T12:00:00Z"}`,
			"the time is       2026-11-23T12:00:00Z\nthe wall clock is 2026-11-22T12:00:00Z, 24 hours behind, because it has jumped: set it right, or run `usagectl clock accept` if it is right now\n" +
				"old data is kept for 3 days longer, until the wall clock has been right for a day: the daemon cannot know for how long it was off\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			for _, args := range [][]string{{"clock"}, {"clock", "show"}, {"clock", "accept"}} {
				tl := answering(t, http.StatusOK, tc.answer)
				if code := tl.run(t, args...); code != exitOK || tl.stdout.String() != tc.want {
					t.Errorf("%v: exit code %d, output\n%s%s\nwant\n%s", args, code, tl.stdout.String(), tl.stderr.String(), tc.want)
				}
			}
			tl := answering(t, http.StatusOK, tc.answer)
			if code := tl.run(t, "--output=json", "clock"); code != exitOK || !strings.Contains(tl.stdout.String(), `"jump_seconds"`) {
				t.Errorf("as JSON: exit code %d, %s%s", code, tl.stdout.String(), tl.stderr.String())
			}
		})
	}
	tl := answering(t, http.StatusInternalServerError, `{"detail":"the disk is full"}`)
	if code := tl.run(t, "clock", "accept"); code != exitFailure || !strings.Contains(tl.stderr.String(), "500") {
		t.Errorf("exit code %d, %s", code, tl.stderr.String())
	}
}
