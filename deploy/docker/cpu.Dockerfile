# Builds and serves on a CPU, with the tritonserver inside nvidia-pytriton. To try the service in a
# container; on a network the server belongs behind something else (see docs/production.md).
FROM python:3.11.15-slim-bookworm

# PyPI's own torch brings gigabytes of CUDA.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

WORKDIR /opt/segs-detailer

COPY requirements.txt requirements-nodeps.txt ./
RUN python3 -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --extra-index-url "${TORCH_INDEX}" \
        --requirement requirements.txt \
    && /opt/venv/bin/pip install --no-cache-dir --no-deps --requirement requirements-nodeps.txt

COPY pyproject.toml README.md LICENSE ./
COPY backends backends
COPY build_engines build_engines
COPY client client
COPY model_repository model_repository
COPY networks networks
COPY pipelines pipelines
COPY preprocessing preprocessing
COPY request_plan request_plan
COPY runners runners
COPY sampling sampling
COPY serving serving
COPY triton_models triton_models
RUN /opt/venv/bin/pip install --no-cache-dir --no-deps --editable client --editable . \
    && groupadd --gid 10001 segs \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp segs \
    && install --directory --owner=10001 --group=10001 /pipelines

# /tmp is the only folder that is sure to be writable.
ENV HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
EXPOSE 8001 8002 8003
USER 10001:10001
