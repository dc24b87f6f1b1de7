SELECT
    arrayJoin([
        ('all', 'events'),
        ('kind', kind),
        ('role', role),
        ('agent', agent_name),
        ('tool', tool),
        ('outcome', outcome),
        ('model', model),
        ('change_reason', change_reason),
        ('to_state', to_state),
        ('status', status)
    ]) AS pair,
    pair.1 AS facet,
    pair.2 AS value,
    count() AS events,
    min(stream_seq) AS first_seq,
    max(stream_seq) AS last_seq
FROM events FINAL
PREWHERE stream_seq > 0
  AND run = {run:String} -- if run
  AND trace_id = {trace:String} -- if trace
  AND (agent_id = {agent:String} OR agent_name = {agent:String}) -- if agent
  AND role = {role:String} -- if role
  AND kind = {kind:String} -- if kind
  AND stream_time >= fromUnixTimestamp64Micro({since:Int64}, 'UTC') -- if since
  AND stream_time < fromUnixTimestamp64Micro({until:Int64}, 'UTC') -- if until
WHERE duplicate_of = 0
  AND pair.2 != ''
  AND positionCaseInsensitiveUTF8(body, {q:String}) > 0 -- if q
GROUP BY pair
ORDER BY facet, events DESC, value
LIMIT {limit:UInt32} BY facet
