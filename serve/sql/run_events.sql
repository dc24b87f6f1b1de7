SELECT stream_seq, stream_time, subject, event_id, payload_sha256, raw
FROM events FINAL
WHERE duplicate_of = 0
  AND run = {run:String}
  AND stream_seq > {after:UInt64}
  AND stream_seq <= {until:UInt64}
ORDER BY stream_seq
LIMIT {limit:UInt32}
