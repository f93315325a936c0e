import { PLACES_PER_FREE } from '../fair.ts'

/**
 * What must happen in Redis all at once. A model's keys begin with ARGV[1]:
 * record:REQUEST (json; ids and how many of them are left; key, body; r:GATEWAY for each gateway with a reader, or lasting), meta:SEQUENCE
 * (request, queue, priority, tenant, start; attempt, fruitless, mark; ended), stream:SEQUENCE, idem:KEY, waiting:PRIORITY (sequence → cost), tenants (tenant → how many wait), share:PRIORITY
 * (clock, t:TENANT → virtual finish time), speed (gateway → tokens/s and when), control (sequences ended, for whoever runs them).
 */

/** Takes a sequence out of the waiting; whether it was there. */
const leaving = `
local function leave(prefix, id)
  local known = redis.call('HMGET', prefix .. 'meta:' .. id, 'priority', 'tenant')
  if redis.call('HDEL', prefix .. 'waiting:' .. (known[1] or '0'), id) == 0 then return false end
  local tenants = prefix .. 'tenants'
  if known[2] and redis.call('HINCRBY', tenants, known[2], -1) <= 0 then redis.call('HDEL', tenants, known[2]) end
  return true
end
`

/** Marks a sequence as ended, and starts the forgetting of its request when it was the last. */
const closing = `
${leaving}
local function close(prefix, id, keep)
  local meta = prefix .. 'meta:' .. id
  redis.call('HSET', meta, 'ended', 1)
  leave(prefix, id)
  local record = prefix .. 'record:' .. (redis.call('HGET', meta, 'request') or '')
  if redis.call('HINCRBY', record, 'left', -1) > 0 then return end
  redis.call('PEXPIRE', record, keep)
  local key = redis.call('HGET', record, 'key')
  if key then redis.call('PEXPIRE', prefix .. 'idem:' .. key, keep) end
  for _, other in ipairs(cjson.decode(redis.call('HGET', record, 'ids') or '[]')) do
    redis.call('PEXPIRE', prefix .. 'meta:' .. other, keep)
    redis.call('PEXPIRE', prefix .. 'stream:' .. other, keep)
  end
end
`

/** Ends sequences from outside: ARGV prefix, keep, event, ids…; whoever runs one reads of it in control. */
const ending = `
${closing}
local function finish(prefix, id, keep, event)
  local meta = prefix .. 'meta:' .. id
  if redis.call('EXISTS', meta) == 0 or redis.call('HEXISTS', meta, 'ended') == 1 then return end
  redis.call('XADD', prefix .. 'stream:' .. id, '4503599627370496-0', 'e', event)
  close(prefix, id, keep)
  redis.call('XADD', prefix .. 'control', 'MAXLEN', '~', 10000, '*', 'id', id)
end
`

/**
 * ARGV: prefix, request, json, gateway or '', limit, tenant, priority, deadline ms or '', idempotency key or '', digest of the body,
 * now, largest priority, queue, then id and cost of each sequence.
 */
export const accept = `
local prefix, request = ARGV[1], ARGV[2]
local record = prefix .. 'record:' .. request
if ARGV[9] ~= '' then
  local first = redis.call('GET', prefix .. 'idem:' .. ARGV[9])
  if first then
    local known = redis.call('HMGET', prefix .. 'record:' .. first, 'json', 'body')
    if known[1] and known[2] ~= ARGV[10] then return {'other'} end
    if known[1] then return {'joined', known[1]} end
  end
end
local waiting, backlog = 0, 0
for priority = 0, tonumber(ARGV[12]) do
  waiting = waiting + redis.call('HLEN', prefix .. 'waiting:' .. priority)
end
local tenants, more, free = prefix .. 'tenants', (#ARGV - 13) / 2, tonumber(ARGV[5]) - waiting
if more > free then return {'full', waiting} end
if waiting == 0 then redis.call('DEL', tenants) end
local own = tonumber(redis.call('HGET', tenants, ARGV[6]) or 0)
if own + more > ${PLACES_PER_FREE} * free then return {'crowded', own} end
if ARGV[8] ~= '' then
  for priority = 0, tonumber(ARGV[12]) do
    for _, cost in ipairs(redis.call('HVALS', prefix .. 'waiting:' .. priority)) do backlog = backlog + cost end
  end
  local speed = 0
  local reports = redis.call('HGETALL', prefix .. 'speed')
  for i = 2, #reports, 2 do
    local rate, at = string.match(reports[i], '^(%S+) (%S+)$')
    if tonumber(ARGV[11]) - at < 10000 then speed = speed + rate
    else redis.call('HDEL', prefix .. 'speed', reports[i - 1]) end
  end
  if speed > 0 and backlog / speed * 1000 > tonumber(ARGV[8]) then return {'late', tostring(backlog / speed)} end
end
local place, share = prefix .. 'waiting:' .. ARGV[7], prefix .. 'share:' .. ARGV[7]
if redis.call('HLEN', place) == 0 then redis.call('DEL', share) end
local answer, ids = {'accepted'}, {}
for i = 14, #ARGV, 2 do
  local id, cost = ARGV[i], tonumber(ARGV[i + 1])
  local tags = redis.call('HMGET', share, 'clock', 't:' .. ARGV[6])
  local start = math.max(tonumber(tags[1] or 0), tonumber(tags[2] or 0))
  redis.call('HSET', share, 't:' .. ARGV[6], start + cost)
  redis.call('HSET', place, id, cost)
  redis.call('HSET', prefix .. 'meta:' .. id, 'request', request, 'queue', ARGV[13], 'attempt', 0,
    'fruitless', 0, 'mark', -1, 'priority', ARGV[7], 'tenant', ARGV[6], 'start', start)
  redis.call('HINCRBY', tenants, ARGV[6], 1)
  ids[#ids + 1] = id
  answer[#answer + 1] = start
end
redis.call('HSET', record, 'json', ARGV[3], 'left', #ids, 'ids', cjson.encode(ids), 'body', ARGV[10])
redis.call('HSET', record, ARGV[4] == '' and 'lasting' or 'r:' .. ARGV[4], 1)
if ARGV[9] ~= '' then
  redis.call('HSET', record, 'key', ARGV[9])
  redis.call('SET', prefix .. 'idem:' .. ARGV[9], request)
end
return answer
`

/** ARGV: prefix, id. Returns nothing where it has ended, else attempt and fruitless attempts. */
export const begin = `
${leaving}
local prefix, id = ARGV[1], ARGV[2]
local meta = prefix .. 'meta:' .. id
if redis.call('EXISTS', meta) == 0 then return false end
local known = redis.call('HMGET', meta, 'ended', 'priority', 'start', 'mark')
if leave(prefix, id) then
  local share = prefix .. 'share:' .. known[2]
  local clock = tonumber(redis.call('HGET', share, 'clock') or 0)
  redis.call('HSET', share, 'clock', math.max(clock, tonumber(known[3])))
end
if known[1] then return false end
local last = redis.call('XREVRANGE', prefix .. 'stream:' .. id, '+', '-', 'COUNT', 1)
local tokens = last[1] and string.match(last[1][1], '^(%d+)-') or '0'
local attempt = redis.call('HINCRBY', meta, 'attempt', 1)
local fruitless = 1
if tokens == known[4] then fruitless = redis.call('HINCRBY', meta, 'fruitless', 1)
else redis.call('HSET', meta, 'fruitless', 1, 'mark', tokens) end
return {attempt, fruitless}
`

/** ARGV: prefix, id. */
export const release = `
local meta = ARGV[1] .. 'meta:' .. ARGV[2]
if tonumber(redis.call('HGET', meta, 'fruitless') or 0) > 0 then redis.call('HINCRBY', meta, 'fruitless', -1) end
`

/**
 * ARGV: prefix, keep, then of each sequence id, attempt, 1 where its last event is its end, number of events, and place and event of
 * each. Returns what became of each sequence's. An entry that is there already holds the same bits, so that Redis refusing it loses
 * nothing.
 */
export const append = `
${closing}
local prefix, answers, at = ARGV[1], {}, 3
while at <= #ARGV do
  local id, count = ARGV[at], tonumber(ARGV[at + 3])
  local known = redis.call('HMGET', prefix .. 'meta:' .. id, 'attempt', 'ended')
  local answer = 'written'
  if known[2] or not known[1] then answer = 'ended'
  elseif known[1] ~= ARGV[at + 1] then answer = 'stale'
  else
    for i = at + 4, at + 2 + 2 * count, 2 do
      local added = redis.pcall('XADD', prefix .. 'stream:' .. id, ARGV[i], 'e', ARGV[i + 1])
      if type(added) == 'table' and added.err and not string.find(added.err, 'equal or smaller', 1, true) then return added end
    end
    if ARGV[at + 2] == '1' then close(prefix, id, ARGV[2]) end
  end
  answers[#answers + 1] = answer
  at = at + 4 + 2 * count
end
return answers
`

/** ARGV: prefix, keep, event, ids…. */
export const end = `
${ending}
for i = 4, #ARGV do finish(ARGV[1], ARGV[i], ARGV[2], ARGV[3]) end
`

/** ARGV: prefix, request, gateway. */
export const attach = `
local record = ARGV[1] .. 'record:' .. ARGV[2]
if redis.call('EXISTS', record) == 1 then redis.call('HSET', record, 'r:' .. ARGV[3], 1) end
`

/** ARGV: prefix, request, gateway. */
export const detach = `redis.call('HDEL', ARGV[1] .. 'record:' .. ARGV[2], 'r:' .. ARGV[3])`

/** ARGV: prefix, request, keep, event: ends the request unless some gateway has a reader of it, or it never needed one. */
export const abandon = `
${ending}
local fields = redis.call('HGETALL', ARGV[1] .. 'record:' .. ARGV[2])
local ids = '[]'
for i = 1, #fields, 2 do
  if fields[i] == 'lasting' or string.sub(fields[i], 1, 2) == 'r:' then return end
  if fields[i] == 'ids' then ids = fields[i + 1] end
end
for _, id in ipairs(cjson.decode(ids)) do finish(ARGV[1], id, ARGV[3], ARGV[4]) end
`

/** ARGV: prefix, queue, largest priority. Returns the sequences that wait for their turn in that queue. */
export const waitingIn = `
local ids = {}
for priority = 0, tonumber(ARGV[3]) do
  for _, id in ipairs(redis.call('HKEYS', ARGV[1] .. 'waiting:' .. priority)) do
    if redis.call('HGET', ARGV[1] .. 'meta:' .. id, 'queue') == ARGV[2] then ids[#ids + 1] = id end
  end
end
return ids
`
