package auth

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"usaged/aggregator/durable"
)

// TokensFile is the name of the tokens file in the data directory.
const TokensFile = "tokens.yml"

// generatedRoles are the roles that get a token at the first start.
var generatedRoles = []Role{RoleAdmin, RoleProducer, RoleViewer, RoleUser}

// GenerateTokens gives a data directory without a tokens file one token of each role: tokens.yml with their digests,
// and each token itself in <role>.token, all of them readable by the owner alone. It returns false where a tokens file
// exists, whatever is in it.
//
// tokens.yml is written last and every file appears whole. A process that is killed on the way leaves no tokens.yml,
// and the next call starts over.
func GenerateTokens(dataDir string) (bool, error) {
	path := filepath.Join(dataDir, TokensFile)
	if _, err := os.Lstat(path); err == nil {
		return false, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("look for tokens: %w", err)
	}
	var list bytes.Buffer
	list.WriteString("# Who may call usaged. Only SHA-256 digests stand here: printf %s TOKEN | sha256sum\n" +
		"# The tokens themselves are in the files beside this one; delete those that you have handed out.\n")
	for _, role := range generatedRoles {
		token := newToken(role)
		if err := durable.WriteFile(TokenFile(dataDir, role), []byte(token+"\n"), 0o600); err != nil {
			return false, fmt.Errorf("write token of role %s: %w", role, err)
		}
		fmt.Fprintf(&list, "- name: %s\n  role: %s\n  sha256: %x\n", role, role, sha256.Sum256([]byte(token)))
	}
	if err := durable.WriteFile(path, list.Bytes(), 0o600); err != nil {
		return false, fmt.Errorf("write tokens: %w", err)
	}
	return true, nil
}

// TokenFile is where GenerateTokens leaves the token of a role.
func TokenFile(dataDir string, role Role) string {
	return filepath.Join(dataDir, role.String()+".token")
}

// tokenBytes is the randomness in a token: 200 bits, which base32 writes without padding.
const tokenBytes = 25

// newToken returns a token. The prefix lets scanners for leaked secrets recognise it, and people its role.
func newToken(role Role) string {
	var secret [tokenBytes]byte
	_, _ = rand.Read(secret[:]) // never fails: crypto/rand ends the process instead
	return "usaged_" + role.String() + "_" + strings.ToLower(base32.StdEncoding.EncodeToString(secret[:]))
}
