-- One row for each message of the events stream, append only. (stream_created, stream_seq) is a row's identity: it comes
-- from the stream and is the same on redelivery, so copies fall into one partition and collapse. Answers read
-- `events FINAL WHERE duplicate_of = 0`.
CREATE TABLE IF NOT EXISTS events
(
    stream_created DateTime64(6, 'UTC') CODEC(ZSTD(1)),
    stream_seq UInt64 CODEC(Delta, ZSTD(1)),
    stream_time DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    subject LowCardinality(String),
    run String CODEC(ZSTD(1)),
    event_id String CODEC(ZSTD(1)),
    event_time DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    trace_id String CODEC(ZSTD(1)),
    span_id String CODEC(ZSTD(1)),
    role LowCardinality(String),
    kind LowCardinality(String),
    agent_id String CODEC(ZSTD(1)),
    agent_name LowCardinality(String),
    agent_seq UInt64 CODEC(Delta, ZSTD(1)),
    previous_event_hash String CODEC(ZSTD(1)),
    task_id String CODEC(ZSTD(1)),
    workspace_id String CODEC(ZSTD(1)),
    parent_event_id String CODEC(ZSTD(1)),
    duplicate_of UInt64 CODEC(ZSTD(1)),
    payload_sha256 String CODEC(ZSTD(1)),
    raw String CODEC(ZSTD(3)),
    rationale String CODEC(ZSTD(3)),
    confidence Float32 CODEC(ZSTD(1)),
    input_trigger String CODEC(ZSTD(3)),
    target_resource String CODEC(ZSTD(1)),
    new_state_hash String CODEC(ZSTD(1)),
    change_reason LowCardinality(String),
    status LowCardinality(String),
    model LowCardinality(String),
    input_tokens UInt32 CODEC(ZSTD(1)),
    output_tokens UInt32 CODEC(ZSTD(1)),
    duration_ms Float64 CODEC(ZSTD(1)),
    tool LowCardinality(String),
    outcome LowCardinality(String),
    to_state LowCardinality(String),
    text String CODEC(ZSTD(3)),
    INDEX by_event_id event_id TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX by_trace_id trace_id TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX by_agent_id agent_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX by_task_id task_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX by_stream_seq stream_seq TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree
PARTITION BY toDate(stream_time)
ORDER BY (run, stream_seq, stream_created)
SETTINGS
    ttl_only_drop_parts = 1,
    non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1,
    fsync_part_directory = 1
