# Builds and serves on a CPU, with the tritonserver inside nvidia-pytriton. To try the service in a
# container; on a network the server belongs behind something else (see docs/production.md).
FROM python:3.11.15-slim-bookworm

# PyPI's own torch brings gigabytes of CUDA.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

WORKDIR /opt/segs-detailer

COPY requirements.txt ./
RUN python3 -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --extra-index-url "${TORCH_INDEX}" \
        --requirement requirements.txt

# All that .dockerignore leaves.
COPY . .
RUN /opt/venv/bin/pip install --no-cache-dir --no-deps --editable client --editable . \
    && groupadd --gid 10001 segs \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp segs \
    && install --directory --owner=10001 --group=10001 /pipelines

# /tmp is the only folder that is sure to be writable.
ENV HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
EXPOSE 8001 8002 8003
USER 10001:10001
