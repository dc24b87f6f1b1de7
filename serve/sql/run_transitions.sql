SELECT run, stream_seq, payload_sha256, raw
FROM events FINAL
WHERE duplicate_of = 0
  AND run IN {runs:Array(String)}
  AND kind = 'run_transition'
  AND task_id = ''
ORDER BY stream_seq
