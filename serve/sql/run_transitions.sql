SELECT run, stream_seq, payload_sha256, raw
FROM events FINAL
PREWHERE run IN {runs:Array(String)}
  AND kind = 'run_transition'
  AND task_id = ''
WHERE duplicate_of = 0
ORDER BY stream_seq
