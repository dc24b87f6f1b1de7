SELECT
    stream_seq AS seq,
    stream_time,
    toValidUTF8(toString(subject)) AS subject,
    run,
    event_id,
    event_time,
    trace_id,
    span_id,
    toString(role) AS role,
    toString(kind) AS kind,
    agent_id,
    toString(agent_name) AS agent_name,
    agent_seq,
    task_id,
    workspace_id,
    parent_event_id,
    payload_sha256 AS sha256,
    toValidUTF8(text) AS text,
    confidence,
    input_trigger,
    target_resource,
    new_state_hash,
    toString(change_reason) AS change_reason,
    toString(status) AS status,
    toString(model) AS model,
    input_tokens,
    output_tokens,
    duration_ms,
    toString(tool) AS tool,
    toString(outcome) AS outcome,
    toString(to_state) AS to_state,
    base64Encode(raw) AS raw_base64
FROM events FINAL
PREWHERE stream_seq > {after:UInt64}
  AND stream_seq < {before:UInt64}
  AND (stream_seq, stream_time) > ({edge:UInt64}, fromUnixTimestamp64Micro({later:Int64}, 'UTC')) -- if later
  AND run = {run:String} -- if run
  AND stream_time >= fromUnixTimestamp64Micro({since:Int64}, 'UTC') -- if since
  AND stream_time < fromUnixTimestamp64Micro({until:Int64}, 'UTC') -- if until
WHERE duplicate_of = 0
ORDER BY stream_seq, stream_time
LIMIT {limit:UInt32}
SETTINGS max_result_bytes = {most_bytes:UInt64}, max_memory_usage = {most_memory:UInt64} -- if most_memory
