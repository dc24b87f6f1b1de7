SELECT stream_seq, stream_time, subject, event_id, payload_sha256, raw
FROM events FINAL
PREWHERE event_id = {event_id:String}
WHERE duplicate_of = 0
ORDER BY stream_seq
LIMIT 1
