package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"reflect"
)

// uid is that of the folder and of the data source.
const uid = "usaged"

// object is what JSON calls one.
type object = map[string]any

// folder makes the folder.
func (g *grafana) folder(ctx context.Context) error {
	var have object
	found, err := g.call(ctx, http.MethodGet, "/api/folders/"+uid, nil, &have)
	if err != nil {
		return err
	}
	became := unchanged
	if !found {
		became = created
		if _, err := g.call(ctx, http.MethodPost, "/api/folders", object{"uid": uid, "title": "usaged"}, &have); err != nil {
			return err
		}
	}
	g.say("folder usaged", became)
	return nil
}

// source makes the data source. Grafana does not show tokens: a digest beside it says whether it is the one we have.
func (g *grafana) source(ctx context.Context, url, token string) error {
	want := object{
		"name": "usaged", "uid": uid, "type": "prometheus", "access": "proxy", "url": url,
		"jsonData": object{"httpMethod": "POST", "timeInterval": "15s"},
	}
	secret := object{}
	if token != "" {
		digest := sha256.Sum256([]byte(token))
		settings := want["jsonData"].(object)
		settings["httpHeaderName1"] = "Authorization"
		settings["usagedTokenDigest"] = hex.EncodeToString(digest[:8])
		secret["httpHeaderValue1"] = "Bearer " + token
	}
	var have object
	found, err := g.call(ctx, http.MethodGet, "/api/datasources/uid/"+uid, nil, &have)
	if err != nil {
		return err
	}
	if found && contains(have, want) {
		g.say("data source usaged", unchanged)
		return nil
	}
	became, method, path := created, http.MethodPost, "/api/datasources"
	if found {
		became, method, path = updated, http.MethodPut, path+"/uid/"+uid
	}
	want["secureJsonData"] = secret
	if _, err := g.call(ctx, method, path, want, &have); err != nil {
		return err
	}
	g.say("data source usaged", became)
	return nil
}

func (g *grafana) dashboards(ctx context.Context, fsys fs.FS) error {
	names, err := fs.Glob(fsys, "*.json")
	if err != nil {
		return fmt.Errorf("list the dashboards: %w", err)
	}
	for _, name := range names {
		data, err := fs.ReadFile(fsys, name)
		if err != nil {
			return fmt.Errorf("read a dashboard: %w", err)
		}
		var d object
		if err := json.Unmarshal(data, &d); err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		if err := g.dashboard(ctx, d); err != nil {
			return err
		}
	}
	return nil
}

// dashboard makes a dashboard, and brings one that was changed or moved back to what is shipped.
func (g *grafana) dashboard(ctx context.Context, want object) error {
	var have struct {
		Dashboard object
		Meta      struct{ FolderUID string }
	}
	name := fmt.Sprint(want["uid"])
	found, err := g.call(ctx, http.MethodGet, "/api/dashboards/uid/"+name, nil, &have)
	if err != nil {
		return err
	}
	became := created
	if found {
		became = updated
		for _, field := range []string{"id", "version"} { // which Grafana gives
			delete(have.Dashboard, field)
			delete(want, field)
		}
		if have.Meta.FolderUID == uid && reflect.DeepEqual(have.Dashboard, want) {
			became = unchanged
		}
	}
	if became != unchanged {
		body := object{"dashboard": want, "folderUid": uid, "overwrite": true, "message": "usaged: make grafana"}
		var answer object
		if _, err := g.call(ctx, http.MethodPost, "/api/dashboards/db", body, &answer); err != nil {
			return err
		}
	}
	g.say("dashboard "+g.url+"/d/"+name, became)
	return nil
}

// contains says whether a data source has all that is wanted. Grafana adds fields of its own to what it was given.
func contains(have, want object) bool {
	for key, value := range want {
		if inner, ok := value.(object); ok {
			settings, ok := have[key].(object)
			if !ok || !contains(settings, inner) {
				return false
			}
		} else if !reflect.DeepEqual(have[key], value) {
			return false
		}
	}
	return true
}
