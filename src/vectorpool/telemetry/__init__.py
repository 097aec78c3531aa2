"""What an instance counts and times: figures, parts of the time, spans. Ground layer: no exporter is imported here.

``families`` is the one table of every figure's name, meaning, labels and buckets; ``figures`` holds the numbers of one
process; ``ledger`` adds up those of several processes, so that no sum goes back when one is started again. ``parts``
splits the time of a request, ``spans`` describes its steps for a trace. Formats of other programs (Prometheus,
OpenTelemetry) are made above, by ``vectorpool.exposition`` and ``vectorpool.traces``.

Labels have few values, all of them from this code: never an id, a path or a text that a caller sent.
"""
