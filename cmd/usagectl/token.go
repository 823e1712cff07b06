package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"

	"github.com/alecthomas/kingpin/v2"

	"usaged/aggregator/durable"
	"usaged/api/auth"
	"usaged/client"
)

// tokenCommand makes, lists and revokes tokens in the daemon's file, on the daemon's machine.
type tokenCommand struct {
	file   string
	name   string
	role   string
	userID string
	toFile string
	force  bool
}

func addToken(app *kingpin.Application, s *session, commands map[string]command) {
	c := &tokenCommand{}
	token := app.Command("token", "Make, list and revoke tokens in the daemon's tokens file, which holds digests alone.")
	token.Flag("tokens-file", "The tokens file; by default tokens.yml in the data directory ($USAGE_AUTH_TOKENS_FILE).").PlaceHolder("FILE").
		Default(s.env("USAGE_AUTH_TOKENS_FILE", "")).StringVar(&c.file)

	create := token.Command("new", "Make a token and print it. It is shown this once. A running daemon knows it at once.")
	create.Flag("name", "Its name, which is kept with every event that it posts.").Required().StringVar(&c.name)
	create.Flag("role", "user posts as itself, producer for anybody, viewer scrapes, admin may do everything.").Required().
		EnumVar(&c.role, auth.RoleNames()...)
	create.Flag("user-id", "Whose events they are that name no user; by default the name.").PlaceHolder("USER").StringVar(&c.userID)
	create.Flag("to-file", "Write it to this file, readable by you alone, instead of printing it. <data.dir>/admin.token is where usagectl "+
		"looks for its own.").PlaceHolder("FILE").StringVar(&c.toFile)
	commands[create.FullCommand()] = c.create

	list := token.Command("list", "List names, roles and users.")
	commands[list.FullCommand()] = c.list

	revoke := token.Command("revoke", "Take a token away. A running daemon refuses it at once.")
	revoke.Arg("name", "Its name.").Required().HintAction(func() []string { return c.names(s) }).StringVar(&c.name)
	revoke.Flag("force", "Also the last token with the role admin.").BoolVar(&c.force)
	commands[revoke.FullCommand()] = c.revoke
}

func (c *tokenCommand) path(s *session) string {
	return cmp.Or(c.file, filepath.Join(s.dataDir, auth.TokensFile))
}

// names completes the name of a token.
func (c *tokenCommand) names(s *session) (names []string) {
	entries, err := auth.ListTokens(c.path(s))
	if err != nil {
		return nil
	}
	for _, e := range entries {
		names = append(names, e.Name)
	}
	return names
}

func (c *tokenCommand) create(ctx context.Context, s *session) error {
	role, err := auth.ParseRole(c.role)
	if err != nil {
		return usageError{err}
	}
	daemon, err := s.client(reading) // before the new token may take the place of the one that it reads
	if err != nil {
		return err
	}
	defer daemon.Close()
	plain, err := auth.AddToken(c.path(s), auth.Token{Name: c.name, Role: role, UserID: c.userID})
	if err != nil {
		return err
	}
	if err := c.hand(s, plain); err != nil {
		_, undo := auth.RevokeToken(c.path(s), c.name, true)
		return errors.Join(err, undo)
	}
	why := reload(ctx, s, daemon)
	if why == "" && !known(ctx, s, plain) {
		why = fmt.Sprintf("the daemon was reloaded and does not know the token: does it read another file than %s?", c.path(s))
	}
	if s.json() {
		return printJSON(s, map[string]any{
			"name": c.name, "role": c.role, "user_id": cmp.Or(c.userID, c.name), "token": plain, "reloaded": why == "", "why_not": why,
		})
	}
	fmt.Fprintf(s.stderr, "made %s token %s; %s\n", c.role, printable(c.name), cmp.Or(why, "the daemon knows it"))
	return nil
}

// hand gives the token to whoever made it. Standard output holds nothing else, so that a script can take it.
func (c *tokenCommand) hand(s *session, plain string) error {
	switch {
	case c.toFile != "":
		if err := durable.WriteFile(c.toFile, []byte(plain+"\n"), 0o600); err != nil {
			return fmt.Errorf("write the token: %w", err)
		}
		return nil
	case s.json():
		return nil // it is part of the answer
	}
	_, err := fmt.Fprintln(s.stdout, plain)
	return err
}

// known says whether the daemon takes a token, whatever it may do with it.
func known(ctx context.Context, s *session, plain string) bool {
	c, err := client.New(client.Config{URL: s.url, Token: plain, RetryFor: -1, UserAgent: "usagectl"})
	if err != nil {
		return false
	}
	defer c.Close()
	_, err = c.Get(ctx, client.LedgerPath, nil, "")
	problem, refused := errors.AsType[*client.Problem](err)
	return !refused || problem.Status != http.StatusUnauthorized
}

// reload makes the daemon read its tokens. It returns what the reader has to know where that did not happen.
func reload(ctx context.Context, s *session, daemon *client.Client) (why string) {
	err := daemon.Reload(ctx)
	if err == nil {
		return ""
	}
	if _, absent := errors.AsType[*client.Unreachable](err); absent {
		return fmt.Sprintf("no daemon answers at %s: it reads the file when it starts, or on kill -HUP where it runs and cannot be reached from here", s.url)
	}
	if problem, ok := errors.AsType[*client.Problem](err); ok && problem.Status != http.StatusUnauthorized && problem.Status != http.StatusForbidden {
		return fmt.Sprintf("the daemon could not reload: %v; correct that, then kill -HUP it", err)
	}
	return fmt.Sprintf("the daemon was not asked to reload: %s; kill -HUP it, or POST /-/reload as admin", s.explain(err))
}

func (c *tokenCommand) list(_ context.Context, s *session) error {
	entries, err := auth.ListTokens(c.path(s))
	if err != nil {
		return c.explainAbsent(s, err)
	}
	if s.json() {
		list := make([]map[string]string, len(entries))
		for i, e := range entries {
			list[i] = map[string]string{"name": e.Name, "role": e.Role.String(), "user_id": e.UserID, "sha256_prefix": prefix(e)}
		}
		return printJSON(s, list)
	}
	t := newTable("NAME", "ROLE", "USER", "SHA256")
	for _, e := range entries {
		t.add(e.Name, e.Role.String(), e.UserID, prefix(e)+"…")
	}
	return t.write(s.stdout)
}

// prefix tells digests apart and is no use to anybody who would look for the token.
func prefix(e auth.TokenEntry) string { return fmt.Sprintf("%x", e.SHA256[:4]) }

func (c *tokenCommand) explainAbsent(s *session, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("there is no tokens file %s: usaged makes one at its first start; name its directory with --data.dir, or the file with "+
			"--tokens-file", c.path(s))
	}
	return err
}

func (c *tokenCommand) revoke(ctx context.Context, s *session) error {
	daemon, err := s.client(reading) // the token that it uses may be the one that is revoked: it is good until the reload
	if err != nil {
		return err
	}
	defer daemon.Close()
	revoked, err := auth.RevokeToken(c.path(s), c.name, c.force)
	if errors.Is(err, auth.ErrLastAdmin) {
		return fmt.Errorf("%w, without whom nobody reads figures: make another with `usagectl token new --role=admin`, or give --force", err)
	}
	if err != nil {
		return err
	}
	why := reload(ctx, s, daemon)
	removed, err := "", error(nil)
	if why == "" {
		removed, err = removePlain(s, revoked)
	}
	if s.json() {
		return errors.Join(err, printJSON(s, map[string]any{"name": c.name, "reloaded": why == "", "why_not": why, "removed_file": removed}), refusal(why))
	}
	fmt.Fprintf(s.stdout, "revoked %s token %s\n", revoked.Role, printable(c.name))
	if removed != "" {
		fmt.Fprintf(s.stdout, "removed %s, which held it\n", removed)
	}
	if why != "" {
		fmt.Fprintf(s.stderr, "usagectl: %s; until then the token is good\n", why)
	}
	return errors.Join(err, refusal(why))
}

// refusal is the failure of a revocation that is not in force yet, so that a script notices.
func refusal(why string) error {
	if why != "" {
		return errReported
	}
	return nil
}

// removePlain removes the file in which the daemon left the token at its first start, since usagectl would go on to use it.
func removePlain(s *session, revoked auth.TokenEntry) (removed string, err error) {
	path := auth.TokenFile(s.dataDir, revoked.Role)
	plain, err := readLine(path)
	if err != nil || !revoked.Is(plain) {
		return "", nil //nolint:nilerr // a file that is not there, or holds something else, is left alone
	}
	if err := os.Remove(path); err != nil {
		return "", fmt.Errorf("remove the plaintext of the revoked token: %w", err)
	}
	return path, nil
}
