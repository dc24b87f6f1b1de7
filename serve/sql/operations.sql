SELECT DISTINCT SpanName AS name, if(SpanKind IN ('', 'Unspecified'), '', lower(SpanKind)) AS kind
FROM spans
WHERE ServiceName = {service:String}
  AND kind = {kind:String} -- if kind
ORDER BY name, kind
LIMIT 10000
