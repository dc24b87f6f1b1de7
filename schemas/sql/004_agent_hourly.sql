-- Read, not accumulated: an aggregate kept over deliveries would count a redelivered batch twice for ever.
CREATE VIEW IF NOT EXISTS agent_hourly AS
SELECT
    toStartOfHour(stream_time) AS hour,
    run,
    role,
    agent_id,
    anyLast(agent_name) AS name,
    count() AS events,
    countIf(kind = 'decision') AS decisions,
    countIf(kind = 'state_change') AS changes,
    countIf(change_reason = 'rollback') AS reverts,
    countIf(kind = 'model_call') AS model_calls,
    countIf(kind = 'tool_call') AS tool_calls,
    countIf(outcome NOT IN ('', 'OK')) AS errors,
    avgIf(confidence, kind = 'decision') AS mean_confidence,
    sum(toUInt64(input_tokens)) AS total_input_tokens,
    sum(toUInt64(output_tokens)) AS total_output_tokens,
    quantileIf(0.5)(duration_ms, kind = 'model_call') AS model_ms_p50,
    quantileIf(0.95)(duration_ms, kind = 'model_call') AS model_ms_p95,
    min(stream_seq) AS first_seq,
    max(stream_seq) AS last_seq
FROM events FINAL
WHERE duplicate_of = 0
GROUP BY hour, run, role, agent_id
SETTINGS use_skip_indexes_if_final_exact_mode = 0, do_not_merge_across_partitions_select_final = 1
