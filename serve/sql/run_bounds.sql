SELECT
    (SELECT min(stream_seq) FROM events WHERE run = {run:String}) AS first_seq,
    (SELECT max(stream_seq) FROM events) AS newest
