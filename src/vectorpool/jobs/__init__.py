"""Durable jobs: syncs of avatars that survive the processes that run them.

The bucket is the truth and a sync repairs what differs, so a job may be lost: nothing but its record goes with it. Jobs
make the work durable, fair and visible. ``client`` is the front's side, and all that the front imports. A worker is a
process of its own: ``process`` serves the front and runs jobs, ``engine`` is the only module that imports DBOS,
``store`` keeps what callers are shown, ``run`` runs one job, ``service`` sends its commands to the service by HTTP.
``installed`` tells whether there can be a worker: the slim image has none.
"""
