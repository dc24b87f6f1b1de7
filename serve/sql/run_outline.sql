WITH
    -- A name may be as long as its event, and there are fifty thousand lines.
    words -> substringUTF8(toValidUTF8(substring(words, 1, 800)), 1, 200) AS cut
SELECT
    stream_seq AS seq,
    toUnixTimestamp64Micro(if(toUnixTimestamp64Micro(event_time) > 0, event_time, stream_time)) AS time,
    event_id,
    toString(kind) AS kind,
    toString(role) AS role,
    cut(if(agent_name != '', toString(agent_name), agent_id)) AS agent,
    cut(task_id) AS task_id,
    parent_event_id AS parent,
    cut(multiIf(
        kind = 'decision', input_trigger,
        kind = 'state_change', target_resource,
        kind = 'tool_call', toString(tool),
        kind = 'model_call', toString(model),
        ''
    )) AS name,
    cut(multiIf(
        kind = 'state_change', toString(change_reason),
        kind IN ('tool_call', 'model_call'), toString(outcome),
        kind = 'run_transition', toString(to_state),
        kind = 'system_signal', toString(status),
        ''
    )) AS result,
    cut(text) AS text,
    round(confidence, 4) AS confidence,
    input_tokens,
    output_tokens,
    round(duration_ms, 1) AS duration_ms
FROM events FINAL
PREWHERE run = {run:String}
  AND stream_seq > {after:UInt64}
WHERE duplicate_of = 0
ORDER BY stream_seq
LIMIT {limit:UInt32}
