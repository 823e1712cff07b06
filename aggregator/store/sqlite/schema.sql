-- The tables, followed by views for people: SELECT * FROM events WHERE day = '2026-11-23'.
-- Days are counted from 1970-01-01, times are milliseconds since 1970.

-- One row per fact about the store itself: schema, partitions, epoch.
CREATE TABLE meta (
	name  TEXT PRIMARY KEY,
	value TEXT NOT NULL
) WITHOUT ROWID;

-- The days that hold something. version is a random number, new with every Apply that touches the day.
CREATE TABLE day (
	day     INTEGER PRIMARY KEY,
	version INTEGER NOT NULL
);

-- Events per type.
CREATE TABLE day_type (
	day       INTEGER NOT NULL,
	partition INTEGER NOT NULL,
	type      TEXT NOT NULL,
	count     INTEGER NOT NULL,
	PRIMARY KEY (day, partition, type)
) WITHOUT ROWID;

-- The rollups of a day. Either type is set, or meter and dim ('user' or 'ref') are.
CREATE TABLE rollup (
	id        INTEGER PRIMARY KEY,
	day       INTEGER NOT NULL,
	partition INTEGER NOT NULL,
	type      TEXT NOT NULL,
	meter     TEXT NOT NULL,
	dim       TEXT NOT NULL,
	UNIQUE (day, type, meter, dim, partition)
);

-- The cells of all rollups. Clustered, so that a rollup is one range of neighbouring pages.
CREATE TABLE cell (
	rollup INTEGER NOT NULL,
	key    TEXT NOT NULL,
	total  INTEGER NOT NULL,
	PRIMARY KEY (rollup, key)
) WITHOUT ROWID;

-- How far each producer's journal has been applied.
CREATE TABLE producer (
	partition INTEGER NOT NULL,
	id        TEXT NOT NULL,
	"offset"  INTEGER NOT NULL,
	session   INTEGER NOT NULL,
	PRIMARY KEY (partition, id)
) WITHOUT ROWID;

-- Where each session of a producer began: the offset at which it took over from the one before. A process that was taken over
-- long ago must learn what was counted of its events, so a row goes only where the next session began at the same offset.
CREATE TABLE takeover (
	partition INTEGER NOT NULL,
	producer  TEXT NOT NULL,
	session   INTEGER NOT NULL,
	"offset"  INTEGER NOT NULL,
	PRIMARY KEY (partition, producer, session)
) WITHOUT ROWID;

-- Lifetime totals of a producer.
CREATE TABLE lifetime (
	partition INTEGER NOT NULL,
	producer  TEXT NOT NULL,
	family    TEXT NOT NULL,
	a         TEXT NOT NULL,
	b         TEXT NOT NULL,
	total     INTEGER NOT NULL,
	PRIMARY KEY (partition, producer, family, a, b)
) WITHOUT ROWID;

-- Claimed event ids. The day of acceptance comes first, so that expiry removes whole ranges and the ids of today, which
-- arrive in random order, fall on few pages.
CREATE TABLE claim (
	accepted_day INTEGER NOT NULL,
	partition    INTEGER NOT NULL,
	digest       BLOB NOT NULL,
	accepted     INTEGER NOT NULL,
	PRIMARY KEY (accepted_day, partition, digest, accepted)
) WITHOUT ROWID;

CREATE VIEW events AS
	SELECT date(r.day * 86400, 'unixepoch') AS day, r.type AS event_type, c.key AS user_id, c.total AS count
	FROM rollup r JOIN cell c ON c.rollup = r.id
	WHERE r.meter = '';

CREATE VIEW meters AS
	SELECT date(r.day * 86400, 'unixepoch') AS day, r.meter, r.dim, c.key, sum(c.total) AS total
	FROM rollup r JOIN cell c ON c.rollup = r.id
	WHERE r.meter <> ''
	GROUP BY r.day, r.meter, r.dim, c.key;

CREATE VIEW daily AS
	SELECT date(day * 86400, 'unixepoch') AS day, type AS event_type, sum(count) AS count
	FROM day_type
	GROUP BY day_type.day, type;

CREATE VIEW producers AS
	SELECT id AS producer, partition, "offset", session FROM producer;

CREATE VIEW totals AS
	SELECT producer, family, a, b, sum(total) AS total
	FROM lifetime
	GROUP BY producer, family, a, b;
