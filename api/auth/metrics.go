package auth

import (
	"fmt"
	"maps"
)

const fetchesName = "usaged_auth_key_fetches_total"

// ExposedName is the name of the gauge of whether Exposed says something.
const ExposedName = "usaged_tokens_file_exposed"

var help = map[string]string{
	ExposedName: "1 where others than its owner and group may read or write the tokens file, otherwise 0.",
	fetchesName: "Fetches of the public keys of token issuers, by issuer and outcome.",
}

// Help returns the help texts of the metrics that are kept of this package, by name.
func Help() map[string]string { return maps.Clone(help) }

// FetchesName returns the name and labels of the counter of fetches that ended so.
func FetchesName(issuer string, err error) string {
	outcome := "ok"
	if err != nil {
		outcome = "error"
	}
	return fmt.Sprintf("%s{issuer=%q,outcome=%q}", fetchesName, issuer, outcome)
}
