SELECT stream_seq, stream_time, subject, event_id, payload_sha256, raw
FROM events FINAL
PREWHERE stream_seq > {after:UInt64}
  AND stream_seq < {before:UInt64}
-- include event_filter
ORDER BY stream_seq
  DESC -- if descending
LIMIT {limit:UInt32}
