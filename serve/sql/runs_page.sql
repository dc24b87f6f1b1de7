SELECT
    run,
    anyIf(trace_id, trace_id != '') AS trace,
    min(stream_seq) AS first_seq,
    max(stream_seq) AS last_seq,
    min(stream_time) AS started_at,
    max(stream_time) AS updated_at,
    count() AS total,
    uniqExact(agent_id) AS agents,
    countIf(kind = 'decision') AS decisions,
    countIf(kind = 'state_change') AS changes,
    countIf(kind = 'model_call') AS model_calls,
    countIf(kind = 'tool_call') AS tool_calls,
    sum(toUInt64(input_tokens)) AS total_input_tokens,
    sum(toUInt64(output_tokens)) AS total_output_tokens
FROM events FINAL
PREWHERE run = {run:String} -- if run
WHERE duplicate_of = 0
GROUP BY run
HAVING first_seq < {before:UInt64}
  AND ({run:String} != '' OR total > countIf(kind = 'system_signal'))
ORDER BY first_seq DESC
LIMIT {limit:UInt32}
