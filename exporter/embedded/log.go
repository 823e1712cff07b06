package embedded

import (
	"context"
	"log/slog"
)

// quiet is a handler that writes what Prometheus reports at the level info, which is each compaction and each rule file, at
// the level debug. Its warnings and errors stay what they are, but for the one that the block of WritePast overlaps others, as it
// does all the time.
type quiet struct{ slog.Handler }

// overlapping is what Prometheus warns of every minute where blocks overlap.
const overlapping = "Overlapping blocks found during reloadBlocks"

func (q quiet) Enabled(ctx context.Context, level slog.Level) bool {
	return q.Handler.Enabled(ctx, lowered(level))
}

func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == overlapping {
		r.Level = slog.LevelDebug
	}
	r.Level = lowered(r.Level)
	if !q.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return q.Handler.Handle(ctx, r)
}

func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(attrs)} }
func (q quiet) WithGroup(name string) slog.Handler       { return quiet{q.Handler.WithGroup(name)} }

func lowered(level slog.Level) slog.Level {
	if level == slog.LevelInfo {
		return slog.LevelDebug
	}
	return level
}
