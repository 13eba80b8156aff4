// The scripts of the Redis store. All answer an array that begins with a word:
//   ok, absent, expired SAVED_AT TTL, fenced EPOCH, damaged
// and take KEYS: hash, journal, index; times are in microseconds, lives of keys in milliseconds. No
// snapshot goes through a script, where it would be copied several times over: it has a key of its
// own, named by a field of the hash, which is written before and read after.
// A script that fails half way keeps what it has written, so the calls that may fail on keys of a
// wrong type come first. Without the flag allow-oom Redis refuses to begin one when it is out of
// memory; those that free memory or wake a session run all the same.
#ifndef GMA_SERVER_STORE_REDIS_SCRIPTS_H_
#define GMA_SERVER_STORE_REDIS_SCRIPTS_H_

namespace gma {

// ARGV: now, skew, milliseconds of a tombstone, milliseconds of skew, id.
// Answers: ok EPOCH SNAPSHOT_NAME RECORD...
inline constexpr char kClaimScript[] = R"(#!lua flags=allow-oom
local m = redis.call('HMGET', KEYS[1], 'epoch', 'saved_at', 'ttl', 'gone', 'snapshot', 'records')
if not m[1] or m[4] == 'removed' then return {'absent'} end
if m[4] == 'expired' then return {'expired', m[2], m[3]} end
local now, blob = tonumber(ARGV[1]), KEYS[1] .. ':' .. m[5]
if now > m[2] + m[3] + ARGV[2] then
  redis.call('UNLINK', blob, KEYS[2])
  redis.call('HSET', KEYS[1], 'gone', 'expired')
  redis.call('ZREM', KEYS[3], ARGV[5])
  return {'expired', m[2], m[3]}
end
local answer = redis.call('LRANGE', KEYS[2], 0, -1)
if #answer ~= tonumber(m[6]) or (m[5] ~= '' and redis.call('EXISTS', blob) == 0) then
  if now > m[2] + m[3] then return {'expired', m[2], m[3]} end
  return {'damaged'}
end
local epoch = string.format('%.0f', m[1] + 1)
redis.call('HSET', KEYS[1], 'epoch', epoch, 'saved_at', ARGV[1])
local life = math.ceil(m[3] / 1000)
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', life + ARGV[3]))
redis.call('PEXPIRE', KEYS[2], string.format('%.0f', life + ARGV[4]))
redis.call('PEXPIRE', blob, string.format('%.0f', life + ARGV[4]))
table.insert(answer, 1, m[3])
table.insert(answer, 1, m[5])
table.insert(answer, 1, epoch)
table.insert(answer, 1, 'ok')
return answer
)";

// ARGV: epoch, now, ttl, id, milliseconds of the hash, of the content, the snapshot's name and
// bytes. The snapshot's key is there already, with a short life.
inline constexpr char kPutScript[] = R"(#!lua flags=allow-oom
local m = redis.call('HMGET', KEYS[1], 'epoch', 'snapshot')
local blob = KEYS[1] .. ':' .. ARGV[7]
if m[1] and tonumber(ARGV[1]) < tonumber(m[1]) then
  redis.call('UNLINK', blob)
  return {'fenced', m[1]}
end
if redis.call('EXISTS', blob) == 0 then return {'damaged'} end
redis.call('ZADD', KEYS[3], 0, ARGV[4])
if redis.call('PTTL', KEYS[3]) < tonumber(ARGV[5]) then redis.call('PEXPIRE', KEYS[3], ARGV[5]) end
redis.call('PEXPIRE', blob, ARGV[6])
redis.call('UNLINK', KEYS[2])
if m[2] and m[2] ~= '' then redis.call('UNLINK', KEYS[1] .. ':' .. m[2]) end
redis.call('HDEL', KEYS[1], 'gone')
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'saved_at', ARGV[2], 'ttl', ARGV[3],
  'snapshot', ARGV[7], 'records', 0, 'snapshot_bytes', ARGV[8], 'journal_bytes', 0)
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return {'ok'}
)";

// ARGV: epoch, now, ttl, id, milliseconds of the hash, of the content, the record.
inline constexpr char kAppendScript[] = R"(#!lua
local m = redis.call('HMGET', KEYS[1], 'epoch', 'saved_at', 'ttl', 'gone', 'snapshot', 'records')
if m[1] and tonumber(ARGV[1]) < tonumber(m[1]) then return {'fenced', m[1]} end
if m[4] == 'expired' then return {'expired', m[2], m[3]} end
if m[1] and m[4] ~= 'removed' then
  local blob = KEYS[1] .. ':' .. m[5]
  if redis.call('LLEN', KEYS[2]) ~= tonumber(m[6]) or
     (m[5] ~= '' and redis.call('EXISTS', blob) == 0) then
    if tonumber(ARGV[2]) > m[2] + m[3] then return {'expired', m[2], m[3]} end
    return {'damaged'}
  end
  redis.call('RPUSH', KEYS[2], ARGV[7])
  redis.call('PEXPIRE', blob, ARGV[6])
else
  redis.call('ZADD', KEYS[3], 0, ARGV[4])
  redis.call('DEL', KEYS[1], KEYS[2])
  redis.call('RPUSH', KEYS[2], ARGV[7])
  redis.call('HSET', KEYS[1], 'snapshot', '', 'snapshot_bytes', 0)
end
if redis.call('PTTL', KEYS[3]) < tonumber(ARGV[5]) then redis.call('PEXPIRE', KEYS[3], ARGV[5]) end
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'saved_at', ARGV[2], 'ttl', ARGV[3])
redis.call('HINCRBY', KEYS[1], 'records', 1)
redis.call('HINCRBY', KEYS[1], 'journal_bytes', #ARGV[7])
redis.call('PEXPIRE', KEYS[1], ARGV[5])
redis.call('PEXPIRE', KEYS[2], ARGV[6])
return {'ok'}
)";

// ARGV: epoch, id, milliseconds to remember the epoch.
inline constexpr char kRemoveScript[] = R"(#!lua flags=allow-oom
local m = redis.call('HMGET', KEYS[1], 'epoch', 'snapshot')
if not m[1] then return {'ok'} end
if tonumber(ARGV[1]) < tonumber(m[1]) then return {'fenced', m[1]} end
redis.call('ZREM', KEYS[3], ARGV[2])
redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[1] .. ':' .. (m[2] or ''))
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'gone', 'removed')
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {'ok'}
)";

// KEYS: index. ARGV: the id to begin behind, or empty; limit; now; skew; what the owner's hashes
// begin with. Answers: ok (ID SAVED_AT TTL BYTES)...
inline constexpr char kListScript[] = R"(#!lua flags=allow-oom
local answer = {'ok'}
local from = ARGV[1] == '' and '-' or '(' .. ARGV[1]
local limit = tonumber(ARGV[2])
while #answer < 1 + 4 * limit do
  local ids = redis.call('ZRANGEBYLEX', KEYS[1], from, '+', 'LIMIT', 0, limit)
  if #ids == 0 then break end
  for _, id in ipairs(ids) do
    local m = redis.call('HMGET', ARGV[5] .. id, 'saved_at', 'ttl', 'gone', 'snapshot_bytes',
      'journal_bytes')
    if not m[1] or m[3] then
      redis.call('ZREM', KEYS[1], id)
    elseif tonumber(ARGV[3]) <= m[1] + m[2] + ARGV[4] and #answer < 1 + 4 * limit then
      for _, value in ipairs({id, m[1], m[2], string.format('%.0f', m[4] + m[5])}) do
        answer[#answer + 1] = value
      end
    end
    from = '(' .. id
  end
end
return answer
)";

}  // namespace gma

#endif  // GMA_SERVER_STORE_REDIS_SCRIPTS_H_
