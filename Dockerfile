# Two stages: uv installs the locked runtime dependencies and the package; the image that runs has neither uv nor sources.

FROM python:3.12-slim AS build
RUN pip install --no-cache-dir "uv>=0.9,<1"
# Without bytecode a start compiles every module again, in each process: it then takes three times as long.
ENV UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_PROJECT_ENVIRONMENT=/opt/vectorpool \
    UV_PYTHON_DOWNLOADS=never
WORKDIR /build
# The dependencies first: they change less often than the sources, so their layer is kept.
COPY pyproject.toml uv.lock ./
RUN uv sync --locked --no-dev --no-install-project
COPY README.md LICENSE NOTICE ./
COPY src ./src
RUN uv sync --locked --no-dev --no-editable

FROM python:3.12-slim
COPY --from=build /opt/vectorpool /opt/vectorpool
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
# No shell in between: SIGTERM reaches the service, which then finishes and commits.
ENTRYPOINT ["vectorpool"]
CMD ["serve"]
