SELECT
    arrayJoin([
        ('all', 'events'),
        ('kind', kind),
        ('role', role),
        ('agent', agent_name),
        ('tool', tool),
        ('outcome', outcome),
        ('model', model),
        ('change_reason', change_reason),
        ('to_state', to_state),
        ('status', status)
    ]) AS pair,
    pair.1 AS facet,
    pair.2 AS value,
    count() AS events,
    min(stream_seq) AS first_seq,
    max(stream_seq) AS last_seq
FROM events FINAL
PREWHERE stream_seq > 0
-- include event_filter
  AND pair.2 != ''
GROUP BY pair
ORDER BY facet, events DESC, value
LIMIT {limit:UInt32} BY facet
