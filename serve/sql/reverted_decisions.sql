WITH RECURSIVE
    changes AS (
        SELECT run, workspace_id, stream_seq, event_id, parent_event_id, new_state_hash, change_reason
        FROM events_list
        WHERE kind = 'state_change'
          AND run = {run:String} -- if run
          AND run IN (SELECT run FROM events PREWHERE change_reason IN ('rollback', 'undo'))
    ),
    reverts AS (
        SELECT
            late.run AS run,
            late.workspace_id AS workspace_id,
            late.stream_seq AS stream_seq,
            late.event_id AS event_id,
            late.parent_event_id AS parent_event_id,
            late.change_reason AS change_reason,
            maxIf(early.stream_seq, early.stream_seq < late.stream_seq AND early.new_state_hash = late.new_state_hash) AS back_to
        FROM changes AS late
        INNER JOIN changes AS early ON early.run = late.run AND early.workspace_id = late.workspace_id
        WHERE late.change_reason IN ('rollback', 'undo')
        GROUP BY run, workspace_id, stream_seq, event_id, parent_event_id, change_reason
    ),
    reverted AS (
        SELECT
            change.run AS run,
            change.stream_seq AS change_seq,
            change.event_id AS change_id,
            change.parent_event_id AS parent_id,
            min(revert.stream_seq) AS reverted_at,
            argMin(revert.event_id, revert.stream_seq) AS reverted_by
        FROM changes AS change
        INNER JOIN reverts AS revert ON revert.run = change.run AND revert.workspace_id = change.workspace_id
        WHERE change.change_reason NOT IN ('base', 'fork', 'rollback', 'undo')
          AND change.stream_seq < revert.stream_seq
          AND if(revert.change_reason = 'undo', change.event_id = revert.parent_event_id, change.stream_seq > revert.back_to)
        GROUP BY run, change_seq, change_id, parent_id
    ),
    causes AS (
        SELECT run, change_seq, change_id, reverted_at, reverted_by, parent_id, change_seq AS after, 1 AS hops
        FROM reverted
        UNION ALL
        SELECT
            known.run,
            known.change_seq,
            known.change_id,
            known.reverted_at,
            known.reverted_by,
            cause.parent_event_id,
            cause.stream_seq,
            known.hops + 1
        FROM causes AS known
        INNER JOIN (
            SELECT run, event_id, parent_event_id, stream_seq
            FROM events FINAL
            PREWHERE parent_event_id != ''
              AND run = {run:String} -- if run
              AND run IN (SELECT run FROM events PREWHERE change_reason IN ('rollback', 'undo'))
            WHERE duplicate_of = 0
        ) AS cause ON cause.event_id = known.parent_id AND cause.run = known.run
        WHERE known.hops < 200
          AND cause.stream_seq < known.after
    )
SELECT
    decision.run AS run,
    decision.stream_seq AS seq,
    decision.event_id AS event_id,
    decision.stream_time AS stream_time,
    decision.role AS role,
    decision.agent_id AS agent_id,
    decision.agent_name AS agent_name,
    decision.task_id AS task_id,
    decision.confidence AS confidence,
    decision.summary AS rationale,
    count() AS reverted,
    min(causes.hops) AS hops,
    arraySlice(
        arraySort(groupArray((causes.change_seq, causes.change_id, causes.reverted_at, causes.reverted_by))), 1, 100
    ) AS changes
FROM causes
INNER JOIN events_list AS decision ON decision.event_id = causes.parent_id AND decision.run = causes.run
WHERE decision.kind = 'decision'
  AND decision.stream_seq < causes.after
  AND decision.confidence < {below:Float64}
  AND decision.run = {run:String} -- if run
  AND decision.run IN (SELECT run FROM events PREWHERE change_reason IN ('rollback', 'undo'))
GROUP BY run, seq, event_id, stream_time, role, agent_id, agent_name, task_id, confidence, rationale
ORDER BY seq
LIMIT {limit:UInt32}
