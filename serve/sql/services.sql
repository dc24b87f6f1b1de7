SELECT DISTINCT ServiceName AS service
FROM spans
WHERE ServiceName != ''
ORDER BY service
LIMIT 1000
