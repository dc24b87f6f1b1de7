SELECT TraceId AS trace, argMin(SpanId, Timestamp) AS first, uniqExact(SpanId) AS stored
FROM spans
WHERE TraceId IN {traces:Array(String)}
GROUP BY TraceId
