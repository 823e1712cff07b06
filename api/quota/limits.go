package quota

import (
	"errors"
	"fmt"
	"os"

	"usaged/aggregator/yamlfile"
	"usaged/api/auth"
)

// Limits are what one token may ask for. In each of them 0 means that there is no limit.
type Limits struct {
	// Events, Bytes and IDs are per second: events, bytes of decompressed bodies, and ids that the sender chose. A token that was
	// silent for a while may send up to ten seconds' worth at once, and a full request in any case.
	Events, Bytes, IDs int
	// Reads and Tails are answers being computed, and streams of accepted events being open, at one time.
	Reads, Tails int
	// NewTypes, NewLabels and NewReferences are names per UTC day that nobody has used before as far as this replica knows: event
	// types; sources, models and policies together; references of each meter, all meters together.
	NewTypes, NewLabels, NewReferences int
}

// Defaults are the limits of each role. Producers are trusted with the load of a platform; a person's token is not.
func Defaults() map[auth.Role]Limits {
	standard := Limits{Reads: 24, Tails: 48}
	return map[auth.Role]Limits{
		auth.RoleUser: {
			Events: 1_000, Bytes: 1 << 20, IDs: 1_000, Reads: 4, Tails: 1,
			NewTypes: 20, NewLabels: 20, NewReferences: 500,
		},
		auth.RoleProducer: standard,
		auth.RoleViewer:   standard,
		auth.RoleReader:   standard,
		auth.RoleAuditor:  standard,
		auth.RoleOperator: standard,
		auth.RoleAdmin:    standard,
	}
}

// Config says which limits each token has.
type Config struct {
	roles  map[auth.Role]Limits
	tokens map[string]fileEntry
}

// fileEntry is one entry of a quotas file. What it leaves out stays as it is.
type fileEntry struct {
	Role          string `yaml:"role"`
	Token         string `yaml:"token"`
	Events        *int   `yaml:"events_per_second"`
	Bytes         *int   `yaml:"bytes_per_second"`
	IDs           *int   `yaml:"ids_per_second"`
	Reads         *int   `yaml:"concurrent_reads"`
	Tails         *int   `yaml:"concurrent_tails"`
	NewTypes      *int   `yaml:"new_types_per_day"`
	NewLabels     *int   `yaml:"new_labels_per_day"`
	NewReferences *int   `yaml:"new_references_per_day"`
}

// Load reads a quotas file:
//
//   - role: user
//     events_per_second: 200     # 0: no limit
//   - token: billing             # as in the tokens file; a JSON Web Token has the name of its issuer, a slash and its user
//     bytes_per_second: 50000000
//
// What an entry leaves out is as the defaults say, or for a token as its role has it. An error names the file and the line of every
// fault. An empty path stands for the defaults alone.
func Load(path string) (*Config, error) {
	cfg := &Config{roles: Defaults(), tokens: map[string]fileEntry{}}
	if path == "" {
		return cfg, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read quotas: %w", err)
	}
	file := yamlfile.Parse(path, data)
	var entries []fileEntry
	file.Decode(&entries)
	if file.Err() != nil {
		return nil, file.Err()
	}
	seen := map[string]bool{}
	for i, e := range entries {
		if err := cfg.add(e, seen); err != nil {
			file.Fault(file.Root.Content[i].Line, "entry %d: %s", i+1, err)
		}
	}
	return cfg, file.Err()
}

func (c *Config) add(e fileEntry, seen map[string]bool) error {
	if (e.Role == "") == (e.Token == "") {
		return errors.New("name either a role or a token")
	}
	key := "role " + e.Role + ", token " + e.Token
	if seen[key] {
		return errors.New("an entry before is for the same role or token: write all limits into one")
	}
	seen[key] = true
	for _, n := range []*int{e.Events, e.Bytes, e.IDs, e.Reads, e.Tails, e.NewTypes, e.NewLabels, e.NewReferences} {
		if n != nil && *n < 0 {
			return errors.New("a limit is a whole number, 0 for none")
		}
	}
	if e.Token != "" {
		c.tokens[e.Token] = e
		return nil
	}
	role, err := auth.ParseRole(e.Role)
	if err != nil {
		return err
	}
	c.roles[role] = e.over(c.roles[role])
	return nil
}

// over returns the limits with those of the entry in their place.
func (e *fileEntry) over(l Limits) Limits {
	for _, field := range []struct {
		to   *int
		from *int
	}{
		{&l.Events, e.Events}, {&l.Bytes, e.Bytes}, {&l.IDs, e.IDs}, {&l.Reads, e.Reads}, {&l.Tails, e.Tails},
		{&l.NewTypes, e.NewTypes}, {&l.NewLabels, e.NewLabels}, {&l.NewReferences, e.NewReferences},
	} {
		if field.from != nil {
			*field.to = *field.from
		}
	}
	return l
}

// of returns the limits of a token.
func (c *Config) of(who *auth.Token) Limits {
	limits := c.roles[who.Role]
	if e, ok := c.tokens[who.Name]; ok {
		limits = e.over(limits)
	}
	return limits
}
