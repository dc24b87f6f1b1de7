SELECT stream_seq, stream_time, subject, event_id, payload_sha256, raw
FROM events FINAL
PREWHERE run = {run:String}
  AND stream_seq > {after:UInt64}
  AND stream_seq <= {until:UInt64}
  AND (stream_seq, stream_time) > ({edge:UInt64}, fromUnixTimestamp64Micro({later:Int64}, 'UTC')) -- if later
WHERE duplicate_of = 0
ORDER BY stream_seq, stream_time
LIMIT {limit:UInt32}
