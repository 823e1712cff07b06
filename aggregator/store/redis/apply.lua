-- Applies one batch of one producer to one partition, see Store.Apply. Everything is checked before anything is written,
-- since a script that fails half-way keeps what it has written.
--
-- KEYS[1] is the producer, KEYS[2] the index of producers; ARGV[1] names all other keys by their place in KEYS.
-- ARGV[1] is the batch without its cells, ARGV[2] and so on are chunks of cells in the order in which it mentions them:
-- total, key, total, key, … . See encode.go. Offsets are compared as text. Totals stay numbers, which are exact up to 2^53;
-- tostring would round them. OTHER, WINDOW (within which two acceptances of an id are one event's, in milliseconds) and the MAX_
-- constants come from the contract in Go.
local prev, last, session, id, totals, days, claims = unpack(cmsgpack.unpack(ARGV[1]))

local DAY = 24 * 60 * 60 * 1000 -- ids are kept by the day of their acceptance
local STEP = 3500 -- unpack takes fewer than 8,000 values

-- wrong returns an error where a key exists and is not of the kind wanted.
local function wrong(key, want)
  local kind = redis.call('TYPE', key).ok
  if kind ~= want and kind ~= 'none' then
    return redis.error_reply('WRONGTYPE key ' .. key .. ' is a ' .. kind .. ', not a ' .. want)
  end
end

local bad = wrong(KEYS[1], 'hash') or wrong(KEYS[2], 'set')
if bad then return bad end

-- The session and the offset.
local known = redis.call('HMGET', KEYS[1], 'offset', 'session', 'overflow')
if not known[1] and redis.call('SISMEMBER', KEYS[2], id) == 1 then
  return redis.error_reply('LOSTPRODUCER ' .. KEYS[1] .. ' is gone, but not the counts that it stands for')
end
local offset = known[1] or '0'
local mine, theirs = tonumber(session), tonumber(known[2] or '0')
if theirs > mine then
  for s, at in string.gmatch(redis.call('HGET', KEYS[1], 'takeovers') or '', '(%d+):([%d?]+)') do
    if tonumber(s) > mine then
      if at == '?' then
        return redis.error_reply('OLDSESSION ' .. KEYS[1] .. ' was taken over too many times since session ' .. session)
      end
      return {'fenced', at}
    end
  end
  return {'fenced', offset}
end
if offset ~= prev then
  local types, references = string.match(known[3] or '0 0', '(%d+) (%d+)')
  return {'mismatch', offset, tonumber(types), tonumber(references)}
end

-- The claims, by day of acceptance: the expiry, the mark of the day and those of the days before and after, whether keys of
-- the day after are given, then per claim the keys of its bucket on the day, the day before and the day after, the digest,
-- the time of day, the place and whether it is recorded; at last the spans of ids that this batch accepted more than once.
--
-- The value of a claim is its time of day, or the first and the last, as in '17,42'.
local function clash(value, at, shift)
  local first, final = tonumber(value), nil
  if first then
    final = first
  else
    local a, b = string.match(value, '(%d+),(%d+)')
    first, final = tonumber(a), tonumber(b)
  end
  return at - (final + shift) < WINDOW and (first + shift) - at < WINDOW
end

local taken, misplaced = {'taken', offset}, nil

-- held says whether a bucket holds a claim that is too close.
local function held(key, digest, at, shift)
  local value = redis.pcall('HGET', key, digest)
  if not value then return false end
  if type(value) == 'table' then
    misplaced = misplaced or wrong(key, 'hash') or value
    return false
  end
  return clash(value, at, shift)
end

for _, day in ipairs(claims) do
  local before, after = redis.call('EXISTS', KEYS[day[3]]) == 1, redis.call('EXISTS', KEYS[day[4]]) == 1
  if after and not day[5] then return {'later', offset} end
  local list = day[6]
  for i = 1, #list, 7 do
    local digest, at = list[i + 3], list[i + 4]
    if held(KEYS[list[i]], digest, at, 0)
      or before and held(KEYS[list[i + 1]], digest, at, -DAY)
      or after and held(KEYS[list[i + 2]], digest, at, DAY) then
      taken[#taken + 1] = list[i + 5]
    end
  end
end
if misplaced then return misplaced end
if #taken > 2 then return taken end

-- The kinds of the keys: per day the expiry, the version, the keys of version, types and __other__'s events, the names and
-- counts of types, and the rollups with their key, the place of their type in the names (0: not of a type), whether they
-- are by reference, and the number of their chunks; and the reserved types.
for _, day in ipairs(days) do
  bad = wrong(KEYS[day[3]], 'string') or wrong(KEYS[day[4]], 'hash') or wrong(KEYS[day[5]], 'zset')
  if bad then return bad end
  for _, rollup in ipairs(day[8]) do
    bad = wrong(KEYS[rollup[1]], 'zset')
    if bad then return bad end
  end
end

-- Redis refuses each command that the user may not run, so the commands that read between the writes are run once.
if days[1] then
  local types, other = KEYS[days[1][4]], KEYS[days[1][5]]
  redis.call('HLEN', types)
  redis.call('HEXISTS', types, OTHER)
  redis.call('HGET', types, OTHER)
  redis.call('ZCARD', other)
  redis.call('ZSCORE', other, OTHER)
  redis.call('ZMSCORE', other, OTHER)
end

local takeovers = mine > theirs and (redis.call('HGET', KEYS[1], 'takeovers') or '')

-- A day expires when this batch says, or later where a process that keeps days for longer has said so. All keys of the day expire together.
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
for _, day in ipairs(days) do
  local left = redis.call('PTTL', KEYS[day[3]])
  if left > 0 then day[1] = math.max(day[1], math.floor((now + left) / 1000 + 0.5)) end
end

-- From here on it writes. Redis refuses the first write when it is out of memory, read-only or lacks replicas; and again
-- each command is run once in a way that changes nothing that is counted.
redis.call('HSET', KEYS[1], 'offset', prev)
redis.call('SADD', KEYS[2], id)
for i, day in ipairs(days) do
  redis.call('SET', KEYS[day[3]], day[2], 'EXAT', day[1])
  if i == 1 then
    redis.call('EXPIREAT', KEYS[day[4]], day[1])
    redis.call('ZADD', KEYS[day[5]], 'XX', 'INCR', '0', '')
  end
end
for _, day in ipairs(claims) do
  redis.call('SET', KEYS[day[2]], '1', 'EXAT', day[1])
  redis.call('EXPIREAT', KEYS[day[6][1]], day[1])
end

local refused_types, refused_references = 0, 0

-- add_types adds to the counts per type of a day, and returns which types there was no room for. Reserved types always have room
-- and take none.
local function add_types(key, names, counts, reserved)
  local refused, other, used = {}, nil, redis.call('HLEN', key)
  if used > 0 and redis.call('HEXISTS', key, OTHER) == 1 then used = used - 1 end
  local takes_room = {}
  for _, name in ipairs(names) do takes_room[name] = name ~= OTHER end
  for _, name in ipairs(reserved) do takes_room[name] = false end
  for from = 1, #reserved, STEP do
    for _, there in ipairs(redis.call('HMGET', key, unpack(reserved, from, math.min(from + STEP - 1, #reserved)))) do
      if there then used = used - 1 end
    end
  end
  for from = 1, #names, STEP do
    local to = math.min(from + STEP - 1, #names)
    local old = redis.call('HMGET', key, unpack(names, from, to))
    local set = {}
    for i = from, to do
      local name, count, before = names[i], counts[i], old[i - from + 1]
      if not before and takes_room[name] and used >= MAX_TYPES then
        refused[i] = true
        refused_types = refused_types + count
        other = (other or 0) + count
      else
        if not before and takes_room[name] then used = used + 1 end
        set[#set + 1] = name
        set[#set + 1] = string.format('%.0f', math.min(tonumber(before or '0') + count, MAX_TOTAL))
      end
    end
    if #set > 0 then redis.call('HSET', key, unpack(set)) end
  end
  if other then
    local before = tonumber(redis.call('HGET', key, OTHER) or '0')
    redis.call('HSET', key, OTHER, string.format('%.0f', math.min(before + other, MAX_TOTAL)))
  end
  return refused
end

-- scores returns the totals that the keys of cells have, false for those that don't exist.
local function scores(key, cells)
  local members = {}
  for i = 1, #cells / 2 do members[i] = cells[2 * i] end
  return redis.call('ZMSCORE', key, unpack(members))
end

-- add adds cells, which it overwrites. Absolute totals in one ZADD make one command for the log and the replicas.
local function add(key, cells)
  local old = scores(key, cells)
  for i = 1, #old do
    if old[i] then cells[2 * i - 1] = math.min(tonumber(old[i]) + cells[2 * i - 1], MAX_TOTAL) end
  end
  redis.call('ZADD', key, unpack(cells))
end

-- add_references adds as many cells as there is room for, and the others to __other__.
local function add_references(key, cells)
  local used = redis.call('ZCARD', key)
  if used + #cells / 2 <= MAX_REFERENCES then return add(key, cells) end
  local other_before = redis.call('ZSCORE', key, OTHER)
  if other_before then used = used - 1 end
  local old, admitted, other = scores(key, cells), {}, nil
  for i = 1, #old do
    local n, name = cells[2 * i - 1], cells[2 * i]
    if name == OTHER then
      other = (other or 0) + n
    elseif old[i] or used < MAX_REFERENCES then
      if not old[i] then used = used + 1 end
      admitted[#admitted + 1] = math.min(tonumber(old[i] or '0') + n, MAX_TOTAL)
      admitted[#admitted + 1] = name
    else
      refused_references = refused_references + 1
      other = (other or 0) + n
    end
  end
  if other then
    admitted[#admitted + 1] = math.min(tonumber(other_before or '0') + other, MAX_TOTAL)
    admitted[#admitted + 1] = OTHER
  end
  redis.call('ZADD', key, unpack(admitted))
end

-- with_takeover adds a session, and the offset at which it took over, to the list of the takeovers: "session:offset " each, in
-- the order of the sessions. The list says where the first session above another began. So of two in a row that began at the
-- same offset the later one says all that both say, and a daemon that takes over again and again and applies nothing leaves one.
-- Beyond MAX_TAKEOVERS bytes the older half goes: "session:? " then stands for it, where sessions below can't be answered.
local function with_takeover(list)
  local previous = string.match(string.sub(list, -50), '%d+:' .. prev .. ' $')
  if previous then list = string.sub(list, 1, -1 - #previous) end
  list = list .. session .. ':' .. prev .. ' '
  if #list <= MAX_TAKEOVERS then return list end
  local cut = string.find(list, ' ', math.floor(#list / 2), true)
  return string.match(string.sub(list, 1, cut), '(%d+):[%d?]+ $') .. ':? ' .. string.sub(list, cut + 1)
end

-- The days.
local chunk = 1
for _, day in ipairs(days) do
  local refused = {}
  if #day[6] > 0 then
    refused = add_types(KEYS[day[4]], day[6], day[7], day[9])
    redis.call('EXPIREAT', KEYS[day[4]], day[1])
  end
  for _, rollup in ipairs(day[8]) do
    local key = KEYS[rollup[1]]
    if refused[rollup[2]] then key = KEYS[day[5]] end
    for _ = 1, rollup[4] do
      chunk = chunk + 1
      local cells = cmsgpack.unpack(ARGV[chunk])
      if rollup[3] then add_references(key, cells) else add(key, cells) end
    end
    redis.call('EXPIREAT', key, day[1])
  end
end

-- The claims.
for _, day in ipairs(claims) do
  local list, spans = day[6], day[7]
  for i = 1, #list, 7 do
    if list[i + 6] then
      local key = KEYS[list[i]]
      redis.call('HSET', key, list[i + 3], list[i + 4])
      redis.call('EXPIREAT', key, day[1])
    end
  end
  for i = 1, #spans, 3 do redis.call('HSET', KEYS[spans[i]], spans[i + 1], spans[i + 2]) end
end

-- The producer.
for from = 1, #totals, 2 * STEP do
  redis.call('HSET', KEYS[1], unpack(totals, from, math.min(from + 2 * STEP - 1, #totals)))
end
redis.call('HSET', KEYS[1], 'offset', last, 'session', session,
  'overflow', string.format('%.0f %.0f', refused_types, refused_references))
if takeovers then redis.call('HSET', KEYS[1], 'takeovers', with_takeover(takeovers)) end
return {'applied', last, refused_types, refused_references}
