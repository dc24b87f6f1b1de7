SELECT
    (SELECT max(stream_seq) FROM events WHERE stream_created = {created:DateTime64(6, 'UTC')}) AS highest_seq,
    (SELECT count() FROM events) AS rows,
    (SELECT count() FROM spans) AS spans,
    (SELECT countIf(duplicate_of != 0) FROM events) AS duplicates
