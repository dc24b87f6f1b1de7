SELECT parents.ServiceName AS parent, children.ServiceName AS child, count() AS callCount
FROM
(
    SELECT sipHash64(TraceId, ParentSpanId) AS key, ServiceName
    FROM spans
    WHERE ParentSpanId != ''
      AND Timestamp >= fromUnixTimestamp64Micro({start:Int64}, 'UTC')
      AND Timestamp <= fromUnixTimestamp64Micro({end:Int64}, 'UTC')
) AS children
ANY INNER JOIN
(
    SELECT sipHash64(TraceId, SpanId) AS key, ServiceName
    FROM spans
    WHERE Timestamp >= fromUnixTimestamp64Micro({start:Int64}, 'UTC')
      AND Timestamp <= fromUnixTimestamp64Micro({end:Int64}, 'UTC')
) AS parents USING key
WHERE parent != child AND parent != '' AND child != ''
  AND {service:String} IN (parent, child) -- if service
GROUP BY parent, child
ORDER BY parent, child
LIMIT 10000
SETTINGS max_bytes_in_join = 500000000
