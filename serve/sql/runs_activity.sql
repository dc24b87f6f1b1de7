SELECT
    run,
    intDiv(
        toUnixTimestamp64Micro(stream_time) - transform(run, {runs:Array(String)}, {starts:Array(Int64)}, toInt64(0)),
        transform(run, {runs:Array(String)}, {widths:Array(Int64)}, toInt64(1))
    ) AS stretch,
    count() AS total
FROM events FINAL
PREWHERE run IN {runs:Array(String)}
WHERE duplicate_of = 0
GROUP BY run, stretch
