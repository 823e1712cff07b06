package main

import (
	"github.com/alecthomas/kingpin/v2"

	"usaged/aggregator/store/redis"
)

// redisFlags say which Redis a command looks at, as the daemon's flags of the same names do.
type redisFlags struct {
	cfg redis.Config
}

// add defines the flags. The environment gives their defaults; their placeholders keep those, and so credentials, out of
// the help.
func (f *redisFlags) add(cmd *kingpin.CmdClause, s *session) {
	flag := func(name, env, placeholder, help string, value *string) {
		cmd.Flag(name, help+" ($"+env+").").PlaceHolder(placeholder).Default(s.getenv(env)).StringVar(value)
	}
	flag("redis.url", "USAGE_REDIS_URL", "URL", "The Redis that holds the rollups, as the daemon's flag says", &f.cfg.URL)
	flag("redis.password-file", "USAGE_REDIS_PASSWORD_FILE", "FILE", "File with the password for Redis", &f.cfg.PasswordFile)
	flag("redis.tls.ca-file", "USAGE_REDIS_TLS_CA_FILE", "FILE", "Certificates to trust for rediss://", &f.cfg.TLS.CAFile)
	flag("redis.tls.cert-file", "USAGE_REDIS_TLS_CERT_FILE", "FILE", "Certificate to show to Redis", &f.cfg.TLS.CertFile)
	flag("redis.tls.key-file", "USAGE_REDIS_TLS_KEY_FILE", "FILE", "Key of that certificate", &f.cfg.TLS.KeyFile)
	flag("redis.tls.server-name", "USAGE_REDIS_TLS_SERVER_NAME", "NAME", "Name that Redis' certificate must have", &f.cfg.TLS.ServerName)
}

// given says whether a Redis is named.
func (f *redisFlags) given() bool { return f.cfg.URL != "" }

// check refuses flags about a Redis that isn't named.
func (f *redisFlags) check() error {
	if !f.given() && (f.cfg.PasswordFile != "" || f.cfg.TLS != (redis.TLS{})) {
		return usagef("--redis.…: the other flags about Redis need --redis.url")
	}
	return nil
}

// open returns an inspector of the Redis that is named.
func (f *redisFlags) open() (*redis.Inspector, error) {
	in, err := redis.OpenInspector(f.cfg)
	if err != nil {
		return nil, usageError{err}
	}
	return in, nil
}
