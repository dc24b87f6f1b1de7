SELECT arrayFilter(
    (seq, number) -> number % {every:UInt32} = 0,
    arraySort(groupArray(stream_seq)) AS seqs,
    arrayEnumerate(seqs)
) AS places
FROM events FINAL
PREWHERE run = {run:String}
WHERE duplicate_of = 0
