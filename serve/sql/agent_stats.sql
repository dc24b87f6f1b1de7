SELECT
    agent_id AS agent, -- if by_agent
    agent_name AS agent, -- if by_name
    role AS agent, -- if by_role
    toStartOfInterval(stream_time, toIntervalSecond({seconds:UInt32})) AS bucket, -- if seconds
    anyLast(agent_name) AS name,
    anyLast(role) AS its_role,
    uniqExact(agent_id) AS agents,
    uniqExactIf(run, run != '') AS runs,
    min(stream_time) AS first_time,
    max(stream_time) AS last_time,
    max(stream_seq) AS last_seq,
    count() AS total,
    countIf(kind = 'decision') AS decisions,
    countIf(kind = 'state_change') AS changes,
    countIf(change_reason IN ('rollback', 'undo')) AS reverts,
    countIf(kind = 'model_call') AS model_calls,
    countIf(kind = 'tool_call') AS tool_calls,
    countIf(kind = 'model_call' AND outcome != 'OK') AS failed_model_calls,
    countIf(kind = 'tool_call' AND outcome NOT IN ('', 'OK')) AS failed_tool_calls,
    countIf(status = 'CRITICAL_FAILURE') AS critical_failures,
    avgIf(toFloat64(confidence), kind = 'decision') AS mean_confidence,
    sum(toUInt64(input_tokens)) AS total_input_tokens,
    sum(toUInt64(output_tokens)) AS total_output_tokens,
    quantilesIf(0.5, 0.95)(duration_ms, kind = 'model_call') AS model_ms,
    quantilesIf(0.5, 0.95)(duration_ms, kind = 'tool_call') AS tool_ms
FROM events FINAL
PREWHERE stream_time >= fromUnixTimestamp64Micro({since:Int64}, 'UTC')
  AND stream_time < fromUnixTimestamp64Micro({until:Int64}, 'UTC') -- if until
  AND agent_id = {agent_id:String} -- if agent_id
  AND (agent_id = {agent:String} OR agent_name = {agent:String}) -- if agent
  AND run = {run:String} -- if run
WHERE duplicate_of = 0
GROUP BY
    agent
    , bucket -- if seconds
ORDER BY
    bucket, -- if seconds
    agent
LIMIT {limit:UInt32}
