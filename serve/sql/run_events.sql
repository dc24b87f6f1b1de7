SELECT stream_seq, stream_time, subject, event_id, payload_sha256, raw
FROM events FINAL
PREWHERE run = {run:String}
  AND stream_seq > {after:UInt64}
  AND stream_seq <= {until:UInt64}
WHERE duplicate_of = 0
ORDER BY stream_seq
LIMIT {limit:UInt32}
