SELECT
    toUnixTimestamp64Nano(Timestamp) AS start,
    TraceId, SpanId, ParentSpanId, TraceState, SpanName, SpanKind, ServiceName, ResourceAttributes, ScopeName, ScopeVersion,
    SpanAttributes, Duration, StatusCode, StatusMessage,
    arrayMap(time -> toUnixTimestamp64Nano(time), Events.Timestamp) AS event_times,
    Events.Name AS event_names,
    Events.Attributes AS event_attributes,
    Links.TraceId AS link_traces,
    Links.SpanId AS link_spans,
    Links.Attributes AS link_attributes
FROM spans
WHERE TraceId IN {traces:Array(String)}
  AND (TraceId, SpanId) IN arrayZip({traces:Array(String)}, {spans:Array(String)}) -- if spans
ORDER BY transform(TraceId, {traces:Array(String)}, arrayEnumerate({traces:Array(String)}), 0), start
LIMIT 1 BY TraceId, SpanId
LIMIT {limit:UInt32}
