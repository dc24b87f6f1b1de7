SELECT max(stream_seq) AS last_seq FROM events WHERE run = {run:String}
