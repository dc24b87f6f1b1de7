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
  AND run != ''
  AND (arrayAll(word -> positionCaseInsensitiveUTF8(run, word) > 0, {words:Array(String)}) OR run IN ( -- if words
    SELECT run FROM events FINAL PREWHERE kind = 'run_transition' AND task_id = '' -- if words
    WHERE duplicate_of = 0 GROUP BY run -- if words
    HAVING arrayAll(place -> place > 0, maxForEach(arrayMap( -- if words
      word -> positionCaseInsensitiveUTF8(concat(run, ' ', trace_id, ' ', body), word), {words:Array(String)} -- if words
    ))))) -- if words
GROUP BY run
HAVING {run:String} != ''
  OR (bitShiftLeft(toUInt128(toUnixTimestamp64Micro(started_at)), 64) + first_seq < {before:UInt128}
    AND total > countIf(kind = 'system_signal'))
ORDER BY started_at DESC, first_seq DESC, run DESC
LIMIT {limit:UInt32}
