package redis

import "time"

// Patiently returns a configuration with which a call waits for Redis so long at least.
func (cfg Config) Patiently(patience time.Duration) Config {
	cfg.patience = patience
	return cfg
}
