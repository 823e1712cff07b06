-- Returns what usage:meta says, and writes it where it is missing.
-- KEYS[1] is usage:meta, ARGV are the schema, the number of partitions and an epoch.
local meta = redis.call('HMGET', KEYS[1], 'schema', 'partitions', 'epoch')
if not meta[1] and not meta[2] then
  redis.call('HSET', KEYS[1], 'schema', ARGV[1], 'partitions', ARGV[2], 'epoch', ARGV[3])
  return {ARGV[1], ARGV[2], ARGV[3], 'written'}
end
return {meta[1] or '', meta[2] or '', meta[3] or '', ''}
