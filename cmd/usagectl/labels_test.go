package main

import (
	"net/http"
	"testing"
)

func TestLabels(t *testing.T) {
	t.Parallel()
	answer := `{"labels":[{"label":"source","used":1,"limit":100,"values":["portal","z1"],"freed":["z1"]}]}`
	want := "source: 1 of 100\n  portal\n  z1  (freed)\n"
	for _, args := range [][]string{{"labels"}, {"labels", "list"}, {"labels", "free", "z1"}} {
		tl := answering(t, http.StatusOK, answer)
		if code := tl.run(t, args...); code != exitOK || tl.stdout.String() != want {
			t.Errorf("%v: exit code %d, output\n%s%s\nwant\n%s", args, code, tl.stdout.String(), tl.stderr.String(), want)
		}
	}
	tl := answering(t, http.StatusNotFound, `{"detail":"no label has this value"}`)
	if code := tl.run(t, "labels", "free", "x"); code != exitFailure {
		t.Errorf("exit code %d, %s", code, tl.stderr.String())
	}
}
