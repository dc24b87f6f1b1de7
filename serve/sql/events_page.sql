SELECT stream_seq, stream_time, subject, event_id, payload_sha256, raw
FROM events FINAL
PREWHERE stream_seq > {after:UInt64}
  AND stream_seq < {before:UInt64}
  AND (stream_seq, stream_time) > ({edge:UInt64}, fromUnixTimestamp64Micro({later:Int64}, 'UTC')) -- if later
  AND (stream_seq, stream_time) < ({edge:UInt64}, fromUnixTimestamp64Micro({earlier:Int64}, 'UTC')) -- if earlier
-- include event_filter
ORDER BY stream_seq
  DESC -- if descending
  , stream_time
  DESC -- if descending
LIMIT {limit:UInt32}
SETTINGS max_memory_usage = {most_memory:UInt64} -- if most_memory
