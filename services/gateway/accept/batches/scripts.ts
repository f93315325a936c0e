/**
 * What must happen to the archive in Redis all at once. A model's keys begin with ARGV[1]: item:ID (kind, tenant, state, body,
 * expires, version, bytes, place), parts:ID (name → text), lease:ID (owner), list:KIND:TENANT (id by place), open, expiry (id by
 * Unix ms), bytes (all there are) and places (how many there have been).
 */

/** Puts an item into the lists of its state. */
const placing = `
local function place(prefix, id)
  local kind, tenant, state, expires, at = unpack(redis.call('HMGET', prefix .. 'item:' .. id, 'kind', 'tenant', 'state', 'expires', 'place'))
  redis.call(state == 'open' and 'SADD' or 'SREM', prefix .. 'open', id)
  if state ~= 'hidden' then redis.call('ZADD', prefix .. 'list:' .. kind .. ':' .. tenant, at, id) end
  if expires ~= '' then redis.call('ZADD', prefix .. 'expiry', expires, id) else redis.call('ZREM', prefix .. 'expiry', id) end
end
`

const removing = `
local function remove(prefix, id, overhead)
  local item = prefix .. 'item:' .. id
  local kind, tenant, bytes = unpack(redis.call('HMGET', item, 'kind', 'tenant', 'bytes'))
  if not kind then return end
  redis.call('DECRBY', prefix .. 'bytes', overhead + bytes)
  redis.call('ZREM', prefix .. 'list:' .. kind .. ':' .. tenant, id)
  redis.call('ZREM', prefix .. 'expiry', id)
  redis.call('SREM', prefix .. 'open', id)
  redis.call('UNLINK', item, prefix .. 'parts:' .. id, prefix .. 'lease:' .. id)
end
`

/** ARGV: prefix, id, what an item counts for, limit or '', then kind, tenant, state, body, expires or ''. */
export const add = `
${placing}
local prefix, id, overhead = ARGV[1], ARGV[2], ARGV[3]
local item = prefix .. 'item:' .. id
if redis.call('EXISTS', item) == 1 then return 1 end
local used = tonumber(redis.call('GET', prefix .. 'bytes') or 0)
if ARGV[4] ~= '' and used + overhead > tonumber(ARGV[4]) then return 0 end
redis.call('INCRBY', prefix .. 'bytes', overhead)
redis.call('HSET', item, 'kind', ARGV[5], 'tenant', ARGV[6], 'state', ARGV[7], 'body', ARGV[8], 'expires', ARGV[9],
  'version', 1, 'bytes', 0, 'place', redis.call('INCR', prefix .. 'places'))
place(prefix, id)
return 1
`

/** ARGV: prefix, id, version or '', owner or '', limit or '', 1 to clear, body or '', state or '', expires or '' or 'same', then name, text…. */
export const change = `
${placing}
local prefix, id = ARGV[1], ARGV[2]
local item, parts = prefix .. 'item:' .. id, prefix .. 'parts:' .. id
local version = redis.call('HGET', item, 'version')
if not version then return 'lost' end
if ARGV[4] ~= '' and redis.call('GET', prefix .. 'lease:' .. id) ~= ARGV[4] then return 'lost' end
if ARGV[3] ~= '' and version ~= ARGV[3] then return 'other' end
if ARGV[5] ~= '' then
  local sum = tonumber(redis.call('GET', prefix .. 'bytes') or 0)
  for i = 10, #ARGV do sum = sum + #ARGV[i] end
  if sum > tonumber(ARGV[5]) then return 'full' end
end
local more = 0
for i = 10, #ARGV, 2 do
  if redis.call('HSETNX', parts, ARGV[i], ARGV[i + 1]) == 1 then more = more + #ARGV[i] + #ARGV[i + 1] end
end
if ARGV[6] == '1' then
  -- Not its negation: minus zero is no integer.
  more = 0 - redis.call('HGET', item, 'bytes')
  redis.call('UNLINK', parts)
end
redis.call('INCRBY', prefix .. 'bytes', more)
redis.call('HINCRBY', item, 'bytes', more)
if ARGV[7] ~= '' then redis.call('HSET', item, 'body', ARGV[7]) end
if ARGV[8] ~= '' then redis.call('HSET', item, 'state', ARGV[8]) end
if ARGV[7] ~= '' or ARGV[8] ~= '' then redis.call('HINCRBY', item, 'version', 1) end
if ARGV[9] ~= 'same' then redis.call('HSET', item, 'expires', ARGV[9]) end
if ARGV[8] ~= '' or ARGV[9] ~= 'same' then place(prefix, id) end
return 'changed'
`

/** ARGV: prefix, list. */
export const list = `
local bodies = {}
for _, id in ipairs(redis.call('ZREVRANGE', ARGV[1] .. 'list:' .. ARGV[2], 0, -1)) do
  bodies[#bodies + 1] = redis.call('HGET', ARGV[1] .. 'item:' .. id, 'body')
end
return bodies
`

/** ARGV: prefix, what an item counts for, id. */
export const remove = `
${removing}
remove(ARGV[1], ARGV[3], ARGV[2])
`

/** ARGV: prefix, what an item counts for, now, how many at most. */
export const sweep = `
${removing}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', ARGV[1] .. 'expiry', '-inf', ARGV[3], 'LIMIT', 0, ARGV[4])) do
  remove(ARGV[1], id, ARGV[2])
end
`

/** ARGV: prefix, id, owner, ms. */
export const lease = `
if redis.call('EXISTS', ARGV[1] .. 'item:' .. ARGV[2]) == 0 then return 0 end
return redis.call('SET', ARGV[1] .. 'lease:' .. ARGV[2], ARGV[3], 'NX', 'PX', ARGV[4]) and 1 or 0
`

/** ARGV: prefix, id, owner, ms. Returns the item's version. */
export const renew = `
if redis.call('GET', ARGV[1] .. 'lease:' .. ARGV[2]) ~= ARGV[3] then return false end
redis.call('PEXPIRE', ARGV[1] .. 'lease:' .. ARGV[2], ARGV[4])
return redis.call('HGET', ARGV[1] .. 'item:' .. ARGV[2], 'version')
`

/** ARGV: prefix, id, owner. */
export const release = `
if redis.call('GET', ARGV[1] .. 'lease:' .. ARGV[2]) == ARGV[3] then redis.call('DEL', ARGV[1] .. 'lease:' .. ARGV[2]) end
`
