# Images of the service. uv installs the locked dependencies and the package in a stage of their own; the image that runs
# has neither uv nor sources.
#
#   docker build -t vectorpool .                      everything
#   docker build -t vectorpool:slim --target slim .   the service alone, without optional parts
#
# BASE is a Debian with Python 3.11 or later; the digest is that of python:3.12-slim.
ARG BASE=python:3.12-slim@sha256:78387bc3881b8273120a12ebe6c1ab22b018ccc2c9adf565ae1ac9b536e184ea

FROM ${BASE} AS build
RUN pip install --no-cache-dir "uv>=0.9,<1"
# Without bytecode a start compiles every module again, in each process: it then takes three times as long.
ENV UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_PROJECT_ENVIRONMENT=/opt/vectorpool \
    UV_PYTHON_DOWNLOADS=never
WORKDIR /build
# The dependencies first: they change less often than the sources, so their layer is kept.
COPY pyproject.toml uv.lock ./

# Left out are what chromadb asks for and the engine never imports (Chroma's own server, its command line and its distributed
# form), and what runs jobs: DBOS, with what only it needs.
FROM build AS build-slim
RUN uv export --locked --no-default-groups --group image --no-emit-project --format requirements.txt --quiet \
      --no-emit-package aiohttp --no-emit-package aiohttp-retry --no-emit-package bcrypt --no-emit-package build \
      --no-emit-package croniter --no-emit-package dbos --no-emit-package greenlet --no-emit-package psycopg \
      --no-emit-package psycopg-binary --no-emit-package sqlalchemy \
      --no-emit-package durationpy --no-emit-package faker --no-emit-package fsspec --no-emit-package grpcio \
      --no-emit-package hf-xet --no-emit-package huggingface-hub --no-emit-package kubernetes --no-emit-package mmh3 \
      --no-emit-package oauthlib \
      --no-emit-package opentelemetry-exporter-otlp-proto-grpc --no-emit-package pypika \
      --no-emit-package pyproject-hooks --no-emit-package requests-oauthlib --no-emit-package shellingham \
      --no-emit-package typer --no-emit-package watchfiles --no-emit-package websocket-client \
      --no-emit-package websockets --output-file requirements.txt && \
    uv venv --quiet /opt/vectorpool && \
    uv pip install --quiet --no-cache --no-deps --python /opt/vectorpool -r requirements.txt
COPY README.md LICENSE NOTICE ./
COPY src ./src
# botocore describes every service of AWS, in 27 MB; what is read is S3, and what finds credentials.
RUN uv pip install --quiet --no-cache --no-deps --python /opt/vectorpool . && \
    find /opt/vectorpool/lib/python3*/site-packages/botocore/data -mindepth 1 -maxdepth 1 -type d \
      ! -name s3 ! -name sts ! -name sso ! -name sso-oidc ! -name signin -exec rm -r {} +

FROM build AS build-full
RUN uv sync --locked --no-default-groups --extra extraction --extra traces --group image --no-install-project --no-cache
COPY README.md LICENSE NOTICE ./
COPY src ./src
RUN uv sync --locked --no-default-groups --extra extraction --extra traces --group image --no-editable --no-cache

# What every image has. /tmp is the one place that the service writes to; the rest may be read-only.
FROM ${BASE} AS runtime
RUN useradd --system --uid 10001 --home-dir /nonexistent vectorpool
USER 10001
WORKDIR /tmp
# Replicas are caches of the object store: they go where the container may write, and with it.
# The service itself sets what the C library's allocator needs.
ENV PATH=/opt/vectorpool/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    VECTORPOOL_HOST=0.0.0.0 \
    VECTORPOOL_STORE=/tmp/vectorpool/store \
    VECTORPOOL_REPLICA_DIR=/tmp/vectorpool/replicas \
    VECTORPOOL_ADDRESS_FILE=/tmp/vectorpool/address
# The default. PORT, VECTORPOOL_PORT and --port change it, and the health check asks where the service really listens.
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(open(os.environ['VECTORPOOL_ADDRESS_FILE']).read().strip() + '/health/live', timeout=2)"]
# The init reaps processes that lost their parent, and passes SIGTERM to the service, which finishes and commits.
ENTRYPOINT ["dumb-init", "--single-child", "--", "vectorpool"]
CMD ["serve"]

# For work on the service: `docker compose watch` copies changed sources into it and starts it again.
FROM build AS dev
RUN uv sync --locked --no-default-groups --extra extraction --extra traces --group image --no-install-project --no-cache
COPY README.md LICENSE NOTICE ./
COPY src ./src
RUN uv sync --locked --no-default-groups --extra extraction --extra traces --group image --no-cache
ENV PATH=/opt/vectorpool/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    VECTORPOOL_HOST=0.0.0.0 \
    VECTORPOOL_STORE=/tmp/vectorpool/store \
    VECTORPOOL_REPLICA_DIR=/tmp/vectorpool/replicas
ENTRYPOINT ["dumb-init", "--single-child", "--", "vectorpool"]
CMD ["serve"]

FROM runtime AS slim
COPY --from=build-slim /opt/vectorpool /opt/vectorpool

FROM runtime AS full
COPY --from=build-full /opt/vectorpool /opt/vectorpool
