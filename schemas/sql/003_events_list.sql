-- What a list of events shows: each event once, without its bytes and long texts.
CREATE VIEW IF NOT EXISTS events_list AS
SELECT
    stream_seq,
    stream_time,
    subject,
    run,
    event_id,
    event_time,
    trace_id,
    span_id,
    role,
    kind,
    agent_id,
    agent_name,
    agent_seq,
    task_id,
    workspace_id,
    parent_event_id,
    payload_sha256,
    confidence,
    target_resource,
    new_state_hash,
    change_reason,
    status,
    model,
    input_tokens,
    output_tokens,
    duration_ms,
    tool,
    outcome,
    to_state,
    substringUTF8(
        multiIf(
            kind = 'state_change', concat(change_reason, ' ', target_resource),
            kind = 'tool_call', concat(tool, ' ', outcome),
            kind = 'system_signal', status,
            text
        ),
        1,
        200
    ) AS summary
FROM events FINAL
WHERE duplicate_of = 0
SETTINGS use_skip_indexes_if_final_exact_mode = 0, do_not_merge_across_partitions_select_final = 1
