SELECT count() AS total, min(stream_seq) AS first_seq, max(stream_seq) AS last_seq
FROM events
PREWHERE duplicate_of = 0
  AND run = {run:String} -- if run
  AND stream_time >= fromUnixTimestamp64Micro({since:Int64}, 'UTC') -- if since
  AND stream_time < fromUnixTimestamp64Micro({until:Int64}, 'UTC') -- if until
