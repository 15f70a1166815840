# wattline's commands as one image: docker run wattline api, wattline ingest, ...
FROM python:3.13-slim AS build
RUN python -m venv /venv
ENV PATH=/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
# First the locked dependencies, checked by hash: this layer changes only when the lock does.
COPY locks/runtime.txt locks/
RUN pip install --require-hashes --requirement locks/runtime.txt
COPY pyproject.toml README.md LICENSE ./
COPY wattline wattline
COPY config config
COPY postgres postgres
COPY serving serving
COPY processes processes
COPY ledger ledger
COPY telemetry telemetry
COPY mqtt mqtt
COPY ingestor ingestor
COPY analytics_api analytics_api
COPY loadgen loadgen
COPY access access
COPY embedded embedded
RUN pip install --no-deps --no-build-isolation .

FROM python:3.13-slim
RUN useradd --system --uid 10001 --no-create-home wattline
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /var/empty
USER wattline
ENTRYPOINT ["wattline"]
CMD ["--help"]
