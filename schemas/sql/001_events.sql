-- One row for each message of the events stream, append only. (stream_created, stream_seq) is a row's identity: it comes
-- from the stream and is the same on redelivery, so copies fall into one partition and collapse. Answers read
-- `events FINAL WHERE duplicate_of = 0`.
--
-- The published bytes are kept once: `body` is them, without the ids that have columns of their own where `cut_at` says
-- so, and `raw` puts them together again; `sha256` proves it. A long text stays where it is in `body`, and its column is
-- a place in there: `text` is what the event mainly says (rationale, patch, completion, output or reason).
--
-- Partitions are months: a question looks into every part, and days made 80 parts of ten million rows, months 7.
-- Most ids are UUIDv7, which sort by time: their ranges leave a few of the filters to be read.
-- A page of a run, a trace or one event is what is asked most, and ClickHouse reads whole granules and blocks: with 1,024
-- rows and 64 KiB instead of 8,192 and 256 a trace takes half the CPU, a page or an event a sixth less, for 1.5 % more
-- disk. It also looks for the flipped bit of a damaged block by trying each: a megabyte took it half a minute.
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
    task_id String CODEC(ZSTD(1)),
    workspace_id String CODEC(ZSTD(1)),
    parent_event_id String CODEC(ZSTD(1)),
    duplicate_of UInt64 CODEC(ZSTD(1)),
    sha256 FixedString(32) CODEC(NONE),
    body String CODEC(ZSTD(1)),
    cut_at UInt32 CODEC(ZSTD(1)),
    text_at UInt32 CODEC(ZSTD(1)),
    text_size UInt32 CODEC(ZSTD(1)),
    previous_at UInt32 CODEC(ZSTD(1)),
    confidence Float32 CODEC(ZSTD(1)),
    input_trigger String CODEC(ZSTD(1)),
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
    raw String ALIAS if(
        cut_at = 0,
        body,
        concat(
            '\n$', event_id, substring(body, 1, cut_at - 39),
            '\x1a ', trace_id, '"\x10', span_id, substring(body, cut_at - 38)
        )
    ),
    payload_sha256 String ALIAS lower(hex(sha256)),
    previous_event_hash String ALIAS if(previous_at = 0, '', substring(body, previous_at, 64)),
    text String ALIAS substring(body, text_at, text_size),
    rationale String ALIAS if(kind = 'decision', text, ''),
    INDEX by_event_id_range event_id TYPE minmax GRANULARITY 1,
    INDEX by_event_id event_id TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX by_trace_id trace_id TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX by_agent_id agent_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX by_task_id task_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX by_stream_seq stream_seq TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(stream_time)
ORDER BY (run, stream_seq, stream_created)
SETTINGS
    ttl_only_drop_parts = 1,
    min_bytes_for_wide_part = 134217728,
    index_granularity = 1024,
    max_compress_block_size = 65536,
    non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1,
    fsync_part_directory = 1
