package api

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strings"
)

// etagOf returns a weak validator. Weak, because generated_at and the compression may differ between two answers that
// say the same.
func etagOf(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\n")))
	return `W/"` + hex.EncodeToString(sum[:16]) + `"`
}

// notModified sets the ETag and answers 304 where the client has this version.
func notModified(w http.ResponseWriter, r *http.Request, etag string) bool {
	h := w.Header()
	h["Etag"] = []string{etag}
	h.Set("Cache-Control", "private, no-cache")
	if !matchesETag(strings.Join(r.Header["If-None-Match"], ","), etag) {
		return false
	}
	w.WriteHeader(http.StatusNotModified)
	return true
}

// matchesETag evaluates If-None-Match by weak comparison (RFC 9110, 13.1.2). What stands behind a syntax error is
// ignored: the worst that follows is a full answer.
func matchesETag(list, etag string) bool {
	want := strings.TrimPrefix(etag, "W/")
	for {
		list = strings.TrimLeft(list, " \t,")
		if list == "" {
			return false
		}
		if list[0] == '*' {
			return true
		}
		list = strings.TrimPrefix(list, "W/")
		if list == "" || list[0] != '"' {
			return false
		}
		end := strings.IndexByte(list[1:], '"')
		if end < 0 {
			return false
		}
		if list[:end+2] == want {
			return true
		}
		list = list[end+2:]
	}
}
