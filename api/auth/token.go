// Package auth says who calls and what they may do: bearer tokens, their roles, and the file that holds their digests.
//
// A [Tokens] is safe for concurrent use. The functions that edit a tokens file wait for one another, across processes too.
package auth

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"usaged/aggregator/event"
	"usaged/aggregator/yamlfile"
)

// Token is one entry of a tokens file. It doesn't hold the token itself.
type Token struct {
	// Name is journalled with every event that the token posts.
	Name string
	Role Role
	// UserID is whose events they are where they name no user.
	UserID string
}

type digest = [sha256.Size]byte

// Tokens is the content of a tokens file:
//
//   - name: billing
//     role: producer        # see RoleNames
//     sha256: 9f86d0…0a08   # of the token, in hex
//     user_id: acme-billing # optional; the name by default
//
// The file is read at LoadTokens and at Reload, which replaces all entries at once or, on an error, none.
type Tokens struct {
	path   string
	byHash atomic.Pointer[map[digest]*Token]
}

// LoadTokens reads a tokens file. An error names the file, the line and the entry.
func LoadTokens(path string) (*Tokens, error) {
	t := &Tokens{path: path}
	return t, t.Reload()
}

// Reload reads the file again. On an error the entries that were in force stay.
func (t *Tokens) Reload() error {
	data, err := os.ReadFile(t.path)
	if err != nil {
		return fmt.Errorf("read tokens: %w", err)
	}
	parser := newTokenParser(t.path)
	if err := parser.parse(data); err != nil {
		return err
	}
	t.byHash.Store(&parser.byHash)
	return nil
}

// Lookup returns the entry of a token, or nil.
//
// A map is safe against timing although its comparisons stop early: what they compare are SHA-256 digests, and whoever
// learns how far the digest of a guess agrees with a stored one learns nothing about which token to guess next.
func (t *Tokens) Lookup(plain string) *Token {
	return (*t.byHash.Load())[sha256.Sum256([]byte(plain))]
}

// tokenParser reads a tokens file. It tells the first fault of each entry.
type tokenParser struct {
	path   string
	names  map[string]int // → number of the entry
	hashes map[digest]int
	byHash map[digest]*Token

	// For those who edit the file.
	list    *yaml.Node
	entries []TokenEntry // in the order of the file
}

func newTokenParser(path string) *tokenParser {
	return &tokenParser{path: path, names: map[string]int{}, hashes: map[digest]int{}, byHash: map[digest]*Token{}}
}

func (p *tokenParser) errorf(line int, format string, args ...any) error {
	return fmt.Errorf("%s:%d: %s", p.path, line, fmt.Sprintf(format, args...))
}

func (p *tokenParser) parse(data []byte) error {
	file := yamlfile.Parse(p.path, data)
	if err := file.Err(); err != nil {
		return err
	}
	list := file.Root
	if list == nil {
		return fmt.Errorf("%s: holds no tokens", p.path)
	}
	p.list = list
	if list.Kind != yaml.SequenceNode {
		return p.errorf(list.Line, "must be a list of tokens, each with the keys %s", strings.Join(tokenKeys, ", "))
	}
	if len(list.Content) == 0 {
		return p.errorf(list.Line, "holds no tokens")
	}
	var errs []error
	for i, node := range list.Content {
		errs = append(errs, p.entry(i+1, node))
	}
	return errors.Join(errs...)
}

var tokenKeys = []string{"name", "role", "sha256", "user_id"}

// entry reads entry n.
func (p *tokenParser) entry(n int, node *yaml.Node) error {
	values, err := p.fields(n, node)
	if err != nil {
		return err
	}
	label := fmt.Sprintf("entry %d", n)
	if name := values["name"]; name != nil && printable(name.Value) {
		label = fmt.Sprintf("entry %d (%q)", n, name.Value)
	}
	for _, key := range tokenKeys[:3] {
		if values[key] == nil {
			return p.errorf(node.Line, "%s: %s is missing", label, key)
		}
	}
	token := &Token{Name: values["name"].Value, UserID: values["name"].Value}
	if id := values["user_id"]; id != nil {
		token.UserID = id.Value
		if !printable(id.Value) || len(id.Value) > event.MaxUserIDBytes {
			return p.errorf(id.Line, "%s: user_id must be 1 to %d bytes of text", label, event.MaxUserIDBytes)
		}
	}
	role, err := ParseRole(values["role"].Value)
	if err != nil {
		return p.errorf(values["role"].Line, "%s: role must be one of %s", label, strings.Join(roleNames[:], ", "))
	}
	token.Role = role
	return p.add(n, label, token, values)
}

// maxTokenNameBytes bounds what is journalled with every event.
const maxTokenNameBytes = 128

// add files an entry under its hash.
func (p *tokenParser) add(n int, label string, token *Token, values map[string]*yaml.Node) error {
	name, hash := values["name"], values["sha256"]
	if !printable(token.Name) || len(token.Name) > maxTokenNameBytes {
		return p.errorf(name.Line, "%s: name must be 1 to %d bytes of text", label, maxTokenNameBytes)
	}
	if other, ok := p.names[token.Name]; ok {
		return p.errorf(name.Line, "%s: entry %d has this name already", label, other)
	}
	sum, err := hex.DecodeString(hash.Value)
	if err != nil || len(sum) != sha256.Size {
		return p.errorf(hash.Line, "%s: sha256 must be the SHA-256 of the token: %d hex digits", label, 2*sha256.Size)
	}
	key := digest(sum)
	if other, ok := p.hashes[key]; ok {
		return p.errorf(hash.Line, "%s: entry %d has this sha256 already", label, other)
	}
	p.names[token.Name], p.hashes[key], p.byHash[key] = n, n, token
	p.entries = append(p.entries, TokenEntry{Token: *token, SHA256: key})
	return nil
}

// fields returns the values of an entry by key.
func (p *tokenParser) fields(n int, node *yaml.Node) (map[string]*yaml.Node, error) {
	if node.Kind != yaml.MappingNode {
		return nil, p.errorf(node.Line, "entry %d: must have the keys %s", n, strings.Join(tokenKeys, ", "))
	}
	values := map[string]*yaml.Node{}
	for i := 0; i < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		if !slices.Contains(tokenKeys, key.Value) {
			return nil, p.errorf(key.Line, "entry %d: unknown key %q: the keys are %s", n, key.Value, strings.Join(tokenKeys, ", "))
		}
		if values[key.Value] != nil {
			return nil, p.errorf(key.Line, "entry %d: the key %s stands twice", n, key.Value)
		}
		if value.Kind != yaml.ScalarNode || value.Tag == "!!null" {
			return nil, p.errorf(value.Line, "entry %d: %s must be text", n, key.Value)
		}
		values[key.Value] = value
	}
	return values, nil
}

func printable(s string) bool {
	return s != "" && utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}
