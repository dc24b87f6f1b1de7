SELECT stream_seq, stream_time, subject, event_id, payload_sha256, raw
FROM events FINAL
WHERE duplicate_of = 0
  AND event_id = {event_id:String}
ORDER BY stream_seq
LIMIT 1
