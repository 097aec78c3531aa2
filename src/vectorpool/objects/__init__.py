"""The bucket: one interface, its stores, its wrappers. The only package that knows obstore and boto3.

Promises: ``create`` is atomic and exactly one caller wins; a listing is in key order; every call is bounded in
retries and time; what goes wrong is one of the errors below. May not know what a commit is.
"""
