SELECT TraceId AS trace, max(Timestamp) AS newest
FROM spans
WHERE ServiceName = {service:String}
  AND SpanName = {operation:String} -- if operation
  AND Timestamp >= fromUnixTimestamp64Micro({start:Int64}, 'UTC')
  AND Timestamp <= fromUnixTimestamp64Micro({end:Int64}, 'UTC')
  AND Duration >= {shortest:UInt64} -- if shortest
  AND Duration <= {longest:UInt64} -- if longest
  AND arrayAll((key, value) -> (mapContains(SpanAttributes, key) AND SpanAttributes[key] = value) -- if keys
    OR (mapContains(ResourceAttributes, key) AND ResourceAttributes[key] = value) -- if keys
    OR arrayExists(one -> mapContains(one, key) AND one[key] = value, Events.Attributes) -- if keys
    OR (value != '' AND value = multiIf( -- if keys
      key = 'error' AND StatusCode = 'Error', 'true', -- if keys
      key = 'span.kind', lower(SpanKind), -- if keys
      key = 'otel.status_code', upper(StatusCode), -- if keys
      key = 'otel.status_description', StatusMessage, -- if keys
      key = 'otel.scope.name', ScopeName, -- if keys
      key = 'otel.scope.version', ScopeVersion, -- if keys
      key = 'w3c.tracestate', TraceState, '')), -- if keys
    {keys:Array(String)}, {values:Array(String)}) -- if keys
GROUP BY TraceId
ORDER BY newest DESC, trace
LIMIT {limit:UInt32}
