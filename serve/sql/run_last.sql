SELECT stream_seq AS last_seq FROM events
WHERE run = {run:String}
ORDER BY run DESC, stream_seq DESC
LIMIT 1
