SELECT stream_seq, stream_time, subject, event_id, payload_sha256, raw
FROM events FINAL
PREWHERE stream_seq > {after:UInt64}
  AND stream_seq < {before:UInt64}
  AND ({run:String} = '' OR run = {run:String})
  AND ({trace:String} = '' OR trace_id = {trace:String})
  AND ({agent:String} = '' OR agent_id = {agent:String} OR agent_name = {agent:String})
  AND ({role:String} = '' OR role = {role:String})
  AND ({kind:String} = '' OR kind = {kind:String})
  AND ({since:Int64} = 0 OR stream_time >= fromUnixTimestamp64Micro({since:Int64}, 'UTC'))
  AND ({until:Int64} = 0 OR stream_time < fromUnixTimestamp64Micro({until:Int64}, 'UTC'))
  AND ({q:String} = '' OR positionCaseInsensitiveUTF8(body, {q:String}) > 0)
WHERE duplicate_of = 0
ORDER BY stream_seq
LIMIT {limit:UInt32}
