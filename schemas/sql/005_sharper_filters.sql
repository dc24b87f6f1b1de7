-- A run may be in every part as far as the order of the rows tells, and lies in one or two: a filter leaves those. A
-- filter is as large as its distinct values are many, so those of runs and traces may be sharp, and a trace's may stand
-- for more rows: of one granule in a thousand that is one too many, each of ten parts has one, and is opened for it.
ALTER TABLE events
    DROP INDEX IF EXISTS by_trace_id,
    ADD INDEX IF NOT EXISTS by_trace trace_id TYPE bloom_filter(0.0001) GRANULARITY 4,
    ADD INDEX IF NOT EXISTS by_run run TYPE bloom_filter(0.0001) GRANULARITY 1
