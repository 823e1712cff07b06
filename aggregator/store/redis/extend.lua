-- Has the keys of one day in one partition expire at a time, where they would expire earlier, or at the later time at which the day
-- expires already; and removes the counts of types whose users are gone. Returns how many these were.
--
-- KEYS[1] is the version, KEYS[2] the types, then come the users of each type named in ARGV[3] and so on, then other rollups.
-- ARGV[1] is the time in seconds since 1970, ARGV[2] a new version.
local left = redis.call('PTTL', KEYS[1])
if left == -2 then return 0 end -- it has expired, or nothing was counted
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local at = math.max(tonumber(ARGV[1]), math.floor((now + left) / 1000 + 0.5))
for _, key in ipairs(KEYS) do
  left = redis.call('PTTL', key)
  if left >= 0 and now + left < at * 1000 - 500 then redis.call('EXPIREAT', key, at) end
end
local removed = 0
for i = 3, #ARGV do
  if redis.call('EXISTS', KEYS[i]) == 0 then removed = removed + redis.call('HDEL', KEYS[2], ARGV[i]) end
end
if removed > 0 then redis.call('SET', KEYS[1], ARGV[2], 'EXAT', at) end
return removed
