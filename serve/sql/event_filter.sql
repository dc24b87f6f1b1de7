  AND run = {run:String} -- if run
  AND trace_id = {trace:String} -- if trace
  AND (agent_id = {agent:String} OR agent_name = {agent:String}) -- if agent
  AND role = {role:String} -- if role
  AND kind = {kind:String} -- if kind
  AND stream_time >= fromUnixTimestamp64Micro({since:Int64}, 'UTC') -- if since
  AND stream_time < fromUnixTimestamp64Micro({until:Int64}, 'UTC') -- if until
WHERE duplicate_of = 0
  AND positionCaseInsensitiveUTF8(body, {q:String}) > 0 -- if q
