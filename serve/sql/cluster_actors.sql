SELECT
    agent_id,
    argMax(agent_name, stream_seq) AS name,
    argMax(role, stream_seq) AS its_role,
    argMax(run, stream_seq) AS its_run,
    max(stream_time) AS seen_at,
    argMax(raw, stream_seq) AS latest
FROM events FINAL
PREWHERE stream_time >= fromUnixTimestamp64Micro({since:Int64}, 'UTC')
  AND kind = 'system_signal'
WHERE duplicate_of = 0
GROUP BY agent_id
ORDER BY its_run, name, agent_id
LIMIT {limit:UInt32}
