"""The bucket: one interface, its stores, its wrappers. The only package that imports obstore and boto3.

Promises: ``create`` is atomic and exactly one caller wins; a listing is in key order; every call has a
bound on its retries and its time; every failure is one of the errors of ``bucket``. Nothing here depends on commits.
"""
