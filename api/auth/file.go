package auth

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/gofrs/flock"
	"go.yaml.in/yaml/v3"

	"usaged/aggregator/durable"
)

// TokenEntry is an entry of a tokens file with the digest of its token.
type TokenEntry struct {
	Token
	SHA256 [sha256.Size]byte
}

// ErrLastAdmin is the error of [RevokeToken] where nobody would be left who may read figures or reload the tokens.
var ErrLastAdmin = errors.New("it is the last token with the role admin")

// ListTokens reads the entries of a tokens file in their order.
func ListTokens(path string) ([]TokenEntry, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read tokens: %w", err)
	}
	parser := newTokenParser(path)
	err = parser.parse(data)
	return parser.entries, err
}

// AddToken makes a token, appends its entry to a tokens file and returns the token itself, which is kept nowhere. An empty
// UserID stands for the name.
//
// AddToken and RevokeToken change nothing else in the file, comments included, replace it as a whole, keep its mode and
// owner, and wait for one another. A daemon sees the change when it reloads.
func AddToken(path string, token Token) (plain string, err error) {
	plain = newToken(token.Role)
	entry := TokenEntry{Token: token, SHA256: sha256.Sum256([]byte(plain))}
	if entry.UserID == "" {
		entry.UserID = entry.Name
	}
	return plain, editTokens(path, func(p *tokenParser, text string) (string, []TokenEntry, error) {
		if other := p.names[token.Name]; other != 0 {
			return "", nil, fmt.Errorf("%s: entry %d has the name %q already: take another, or revoke that one first", path, other, token.Name)
		}
		added, err := formatEntry(entry, strings.Repeat(" ", p.list.Column-1))
		if err != nil {
			return "", nil, err
		}
		if !strings.HasSuffix(text, "\n") {
			text += "\n"
		}
		return text + added, append(slices.Clone(p.entries), entry), nil
	})
}

// formatEntry writes an entry of a list with the given indentation.
func formatEntry(e TokenEntry, indent string) (string, error) {
	var b strings.Builder
	line := func(key, value string) error {
		quoted, err := yaml.Marshal(value)
		if err == nil {
			fmt.Fprintf(&b, "%s  %s: %s", indent, key, quoted)
		}
		return err
	}
	err := line("name", e.Name)
	fmt.Fprintf(&b, "%s  role: %s\n%s  sha256: %x\n", indent, e.Role, indent, e.SHA256)
	if e.UserID != e.Name {
		err = errors.Join(err, line("user_id", e.UserID))
	}
	if err != nil {
		return "", fmt.Errorf("write entry: %w", err)
	}
	return indent + "-" + strings.TrimPrefix(b.String(), indent+" "), nil
}

// RevokeToken takes the entry of a name out of a tokens file and returns it. It refuses the last admin with an error that
// is [ErrLastAdmin] unless it is forced to, and the last token in any case.
func RevokeToken(path, name string, force bool) (TokenEntry, error) {
	var revoked TokenEntry
	return revoked, editTokens(path, func(p *tokenParser, text string) (string, []TokenEntry, error) {
		i := p.names[name] - 1
		if i < 0 {
			return "", nil, fmt.Errorf("%s: no token has the name %q", path, name)
		}
		revoked = p.entries[i]
		rest := slices.Delete(slices.Clone(p.entries), i, i+1)
		if len(rest) == 0 {
			return "", nil, fmt.Errorf("%s: %q is the last token, and a file without any is refused: make another first", path, name)
		}
		admin := func(e TokenEntry) bool { return e.Role == RoleAdmin }
		if admin(revoked) && !slices.ContainsFunc(rest, admin) && !force {
			return "", nil, fmt.Errorf("%s: %q: %w", path, name, ErrLastAdmin)
		}
		return cutEntry(p.list, i, text), rest, nil
	})
}

// cutEntry takes entry i of a list out of the text: from its dash to the last line of its values. What stands above or
// behind it may be a comment on something else.
func cutEntry(list *yaml.Node, i int, text string) string {
	lines := slices.Collect(strings.Lines(text))
	node := list.Content[i]
	first, last := node.Line, node.Line // counted from 1
	for first > 1 && !dashAt(lines[first-1], list.Column-1) {
		first--
	}
	for _, n := range node.Content {
		last = max(last, n.Line)
	}
	return strings.Join(slices.Delete(lines, first-1, last), "")
}

// dashAt says whether an entry begins in a column of a line.
func dashAt(line string, column int) bool {
	return len(line) > column && line[column] == '-' && strings.TrimSpace(line[:column]) == ""
}

// editTokens replaces a tokens file by what change makes of it, if that parses as the entries that change intends.
func editTokens(path string, change func(*tokenParser, string) (string, []TokenEntry, error)) (err error) {
	path, unlock, err := lockTokens(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("read tokens: %w", err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read tokens: %w", err)
	}
	before := newTokenParser(path)
	if err := before.parse(data); err != nil {
		return err
	}
	if before.list.Style&yaml.FlowStyle != 0 {
		return fmt.Errorf("%s:%d: the list is written with brackets: write each entry on lines of its own, behind a dash, to have it edited",
			path, before.list.Line)
	}
	text, want, err := change(before, string(data))
	if err != nil {
		return err
	}
	after := newTokenParser(path)
	if err := after.parse([]byte(text)); err != nil {
		// What is wrong with the new text is mostly the new entry, and says so; its line is not one that anybody can look at.
		return fmt.Errorf("nothing was changed, since %w", err)
	}
	if !slices.Equal(after.entries, want) {
		return fmt.Errorf("%s: its form is not one that can be edited here, and nothing was changed: edit it by hand", path)
	}
	return replaceFile(path, []byte(text), info)
}

// replaceFile writes a file with the mode and the owner that it had. Whoever edits it may be root, and the daemon, which
// must be able to read it, is not.
func replaceFile(path string, data []byte, was fs.FileInfo) error {
	if err := durable.WriteFile(path, data, was.Mode().Perm()); err != nil {
		return fmt.Errorf("write tokens: %w", err)
	}
	if err := keepOwner(path, was); err != nil {
		return fmt.Errorf("the tokens are written, but not with the owner that they had: %w", err)
	}
	return nil
}

func keepOwner(path string, was fs.FileInfo) error {
	now, err := os.Stat(path)
	if err != nil {
		return err
	}
	before, ok := was.Sys().(*syscall.Stat_t)
	after, same := now.Sys().(*syscall.Stat_t)
	if !ok || !same || before.Uid == after.Uid && before.Gid == after.Gid {
		return nil
	}
	return os.Chown(path, int(before.Uid), int(before.Gid))
}

// lockTokens locks a tokens file against others who edit it, and returns its path without symbolic links, so that it is the
// file that is replaced and not a link to it. The lock is on the file itself and dies with it when it is replaced: whoever
// waited for it looks again.
func lockTokens(path string) (resolved string, unlock func() error, err error) {
	resolved, err = filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil, fmt.Errorf("there is no tokens file %s: usaged makes one at its first start; start it once, or name its file", path)
	}
	if err != nil {
		return "", nil, fmt.Errorf("find tokens: %w", err)
	}
	for {
		lock := flock.New(resolved, flock.SetFlag(os.O_RDONLY))
		if err := lock.Lock(); err != nil {
			return "", nil, fmt.Errorf("lock %s: %w", resolved, err)
		}
		locked, err := lock.Stat()
		if err == nil {
			var current fs.FileInfo
			if current, err = os.Stat(resolved); err == nil && os.SameFile(locked, current) {
				return resolved, lock.Close, nil
			}
		}
		if err := errors.Join(err, lock.Close()); err != nil {
			return "", nil, fmt.Errorf("lock %s: %w", resolved, err)
		}
	}
}

// Exposed says how others than a tokens file's owner and group can get at it, "" where they cannot: whoever may write it makes himself
// an admin, and whoever reads it learns names and roles.
func Exposed(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return "" // LoadTokens says so
	}
	switch mode := info.Mode().Perm(); {
	case mode&0o002 != 0:
		return fmt.Sprintf("everybody on the machine may write it (mode %04o)", mode)
	case mode&0o004 != 0:
		return fmt.Sprintf("everybody on the machine may read it (mode %04o)", mode)
	}
	return ""
}

// Is says whether a token is the entry's.
func (e TokenEntry) Is(plain string) bool {
	sum := sha256.Sum256([]byte(plain))
	return bytes.Equal(sum[:], e.SHA256[:])
}
