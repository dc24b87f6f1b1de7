SELECT DISTINCT ServiceName AS service
FROM spans
ORDER BY service
LIMIT 1000
