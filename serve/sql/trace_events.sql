SELECT stream_seq, stream_time, subject, event_id, payload_sha256, raw
FROM events FINAL
PREWHERE trace_id = {trace:String}
WHERE duplicate_of = 0
ORDER BY stream_seq
LIMIT {limit:UInt32}
