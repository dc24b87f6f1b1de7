SELECT
    (SELECT min(stream_seq) FROM events
     WHERE run = {run:String} AND stream_created = {created:DateTime64(6, 'UTC')}) AS first_seq,
    (SELECT max(stream_seq) FROM events WHERE stream_created = {created:DateTime64(6, 'UTC')}) AS newest
