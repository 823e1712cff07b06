package redis

import (
	"context"
	"errors"
	"sync"
	"time"

	client "github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

const (
	dialTimeout = 2 * time.Second
	ioTimeout   = 3 * time.Second
	// callTimeout bounds a call of the applier with all that it repeats. One connection that hangs, and another try, fit into it.
	callTimeout = 5 * time.Second
	// maxRetries repeats a call whose connection broke, which is harmless: every write compares and sets. Waiting for a
	// Redis that is away is the caller's business.
	maxRetries = 2
	// maxRedirects follows a cluster that moves slots; TRYAGAIN counts as one, after a wait of up to half a second.
	maxRedirects = 6
	// clusterReload is how often the map of a cluster is read. The client's default of 60 s is how long a promoted
	// replica stayed unknown: 60.1 s, against 5.2 s with this.
	clusterReload = 2 * time.Second
)

// newClient returns a client, which connects when it is used.
func newClient(t *target, cfg Config) (client.UniversalClient, error) {
	silenceClient()
	if cfg.PasswordFile != "" {
		if t.password != "" {
			return nil, errors.New("the URL has a password and a password file is given: give one of them")
		}
		if _, err := readPassword(cfg.PasswordFile); err != nil {
			return nil, err
		}
	}
	if cfg.TLS != (TLS{}) && !t.tls {
		return nil, errors.New("files or a name for TLS are given, and the URL is one without TLS: begin it with rediss://, rediss+sentinel:// or " +
			"rediss+cluster://, or leave the --redis.tls flags out")
	}
	opt := &client.UniversalOptions{
		Addrs:      t.addrs,
		MasterName: t.master,
		DB:         t.db,
		ClientName: "usaged",
		// RESP2 is what every supported server speaks, and what sum.go reads.
		Protocol:         2,
		Username:         t.user,
		Password:         t.password,
		SentinelUsername: t.sentinelUser,
		SentinelPassword: t.sentinelPassword,

		DialTimeout:           max(dialTimeout, cfg.patience),
		DialerRetries:         1,
		ReadTimeout:           max(ioTimeout, cfg.patience),
		WriteTimeout:          max(ioTimeout, cfg.patience),
		ContextTimeoutEnabled: true,
		MaxRetries:            maxRetries,
		MaxRedirects:          maxRedirects,
		PipelinePoolSize:      -1,
		DisableIdentity:       true,
		MaintNotificationsConfig: &maintnotifications.Config{
			Mode: maintnotifications.ModeDisabled,
		},
	}
	if cfg.PasswordFile != "" {
		opt.CredentialsProviderContext = func(context.Context) (string, string, error) {
			password, err := readPassword(cfg.PasswordFile)
			return t.user, password, err
		}
	}
	if t.tls {
		var err error
		if opt.TLSConfig, err = cfg.TLS.load(); err != nil {
			return nil, err
		}
	}
	switch t.mode {
	case cluster:
		o := opt.Cluster()
		o.ClusterStateReloadInterval = clusterReload
		return client.NewClusterClient(o), nil
	case sentinel:
		return client.NewFailoverClient(opt.Failover()), nil
	default:
		return client.NewClient(opt.Simple()), nil
	}
}

// silenceClient keeps the client library from writing to standard error: what it says there it also returns.
var silenceClient = sync.OnceFunc(func() { client.SetLogger(silence{}) })

type silence struct{}

// Printf does nothing.
func (silence) Printf(context.Context, string, ...any) {}
