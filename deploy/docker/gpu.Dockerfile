# Builds and serves on a GPU, on NVIDIA's tritonserver. One image for both: a TensorRT engine runs
# only in the TensorRT version that built it.
FROM nvcr.io/nvidia/tritonserver:26.08-py3

# The Python package without its libraries, in the version of the image's own; checked below.
ARG TENSORRT=tensorrt-cu13
ARG TENSORRT_VERSION=11.2.1.2

RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/segs-detailer

# The image has a tritonserver of its own; the one of nvidia-pytriton is left out.
COPY requirements.txt ./
RUN python3 -m venv /opt/venv \
    && grep -v '^nvidia-pytriton==' requirements.txt > /tmp/requirements.txt \
    && /opt/venv/bin/pip install --no-cache-dir --requirement /tmp/requirements.txt \
    && /opt/venv/bin/pip install --no-cache-dir --no-deps \
        "${TENSORRT}==${TENSORRT_VERSION}" "${TENSORRT}-bindings==${TENSORRT_VERSION}" \
    && rm /tmp/requirements.txt

COPY pipelines pipelines
COPY deploy/docker/check_tensorrt.py deploy/docker/
RUN PYTHONPATH=. /opt/venv/bin/python deploy/docker/check_tensorrt.py

# All that .dockerignore leaves.
COPY . .
RUN /opt/venv/bin/pip install --no-cache-dir --no-deps --editable client --editable . \
    && groupadd --gid 10001 segs \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp segs \
    && install --directory --owner=10001 --group=10001 /pipelines /timing-cache

# /tmp is the only folder that is sure to be writable.
ENV HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
EXPOSE 8001 8002 8003
USER 10001:10001
