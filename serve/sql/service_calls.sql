SELECT parents.ServiceName AS parent, children.ServiceName AS child, count() AS callCount
FROM
(
    SELECT DISTINCT TraceId, SpanId, ParentSpanId, ServiceName
    FROM spans
    WHERE ParentSpanId != ''
      AND Timestamp >= fromUnixTimestamp64Micro({start:Int64}, 'UTC')
      AND Timestamp <= fromUnixTimestamp64Micro({end:Int64}, 'UTC')
) AS children
ANY INNER JOIN
(
    SELECT TraceId, SpanId, ServiceName
    FROM spans
    WHERE Timestamp >= fromUnixTimestamp64Micro({start:Int64}, 'UTC')
      AND Timestamp <= fromUnixTimestamp64Micro({end:Int64}, 'UTC')
) AS parents ON parents.TraceId = children.TraceId AND parents.SpanId = children.ParentSpanId
WHERE parent != child
  AND {service:String} IN (parent, child) -- if service
GROUP BY parent, child
ORDER BY parent, child
LIMIT 10000
SETTINGS max_bytes_in_join = 500000000, max_bytes_in_distinct = 500000000
