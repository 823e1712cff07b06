package auth

import (
	"fmt"
	"slices"
	"strings"
)

// Role is what the holder of a token may do.
type Role uint8

const (
	// RoleUser posts events as itself.
	RoleUser Role = iota
	// RoleProducer posts events of anybody.
	RoleProducer
	// RoleViewer queries PromQL and scrapes.
	RoleViewer
	// RoleReader reads counts: summaries, meters, the ledger, the health score.
	RoleReader
	// RoleAuditor reads raw events and the ledger.
	RoleAuditor
	// RoleOperator runs the daemon: it reloads, plans quiet times, rebuilds, and sees how the daemon is. It sees no user's figures.
	RoleOperator
	// RoleAdmin may do everything.
	RoleAdmin
	numRoles
)

var roleNames = [numRoles]string{"user", "producer", "viewer", "reader", "auditor", "operator", "admin"}

func (r Role) String() string { return roleNames[r] }

// RoleNames are the roles as tokens files write them.
func RoleNames() []string { return slices.Clone(roleNames[:]) }

// ParseRole is the role of a name.
func ParseRole(name string) (Role, error) {
	role := slices.Index(roleNames[:], name)
	if role < 0 {
		return 0, fmt.Errorf("the role must be one of %s, not %q", strings.Join(roleNames[:], ", "), name)
	}
	return Role(role), nil
}

// Roles is a set of roles.
type Roles uint8

// RolesOf is the set of the roles given.
func RolesOf(roles ...Role) Roles {
	var set Roles
	for _, r := range roles {
		set |= 1 << r
	}
	return set
}

// Has says whether a role is in the set.
func (s Roles) Has(r Role) bool { return s&(1<<r) != 0 }

func (s Roles) String() string {
	var names []string
	for r := range numRoles {
		if s.Has(r) {
			names = append(names, r.String())
		}
	}
	return strings.Join(names, ", ")
}
