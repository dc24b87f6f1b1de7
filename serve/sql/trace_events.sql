SELECT stream_seq, stream_time, subject, event_id, payload_sha256, raw
FROM events FINAL
WHERE duplicate_of = 0
  AND trace_id = {trace:String}
ORDER BY stream_seq
LIMIT {limit:UInt32}
