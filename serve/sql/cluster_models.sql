SELECT
    model,
    count() AS calls,
    countIf(outcome != 'OK') AS failed,
    sum(toUInt64(input_tokens)) AS input,
    sum(toUInt64(output_tokens)) AS output
FROM events FINAL
PREWHERE stream_time >= fromUnixTimestamp64Micro({since:Int64}, 'UTC')
  AND kind = 'model_call'
WHERE duplicate_of = 0
GROUP BY model
ORDER BY model
LIMIT {limit:UInt32}
