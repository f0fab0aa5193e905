# Builds and serves on a GPU, on NVIDIA's tritonserver. One image for both: a TensorRT engine runs
# only in the TensorRT version that built it.
FROM nvcr.io/nvidia/tritonserver:26.08-py3

# The version of the image's own libnvinfer: bindings without libraries, checked below.
ARG TENSORRT_BINDINGS=tensorrt-cu13-bindings
ARG TENSORRT_VERSION=11.2.1.2

RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/segs-detailer

# The image has a tritonserver of its own; the one of nvidia-pytriton is left out.
COPY requirements.txt requirements-nodeps.txt ./
RUN python3 -m venv /opt/venv \
    && grep -v '^nvidia-pytriton==' requirements.txt > /tmp/requirements.txt \
    && /opt/venv/bin/pip install --no-cache-dir --requirement /tmp/requirements.txt \
    && /opt/venv/bin/pip install --no-cache-dir --no-deps --requirement requirements-nodeps.txt \
        "${TENSORRT_BINDINGS}==${TENSORRT_VERSION}" \
    && rm /tmp/requirements.txt

COPY deploy/docker/check_tensorrt.py deploy/docker/
RUN /opt/venv/bin/python deploy/docker/check_tensorrt.py

COPY pyproject.toml README.md LICENSE ./
COPY backends backends
COPY build_engines build_engines
COPY client client
COPY model_repository model_repository
COPY pipelines pipelines
COPY preprocessing preprocessing
COPY sampling sampling
COPY serving serving
RUN /opt/venv/bin/pip install --no-cache-dir --no-deps --editable client --editable . \
    && install --directory --owner=10001 --group=10001 /pipelines /timing-cache

# /tmp is the only folder that is sure to be writable.
ENV HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
EXPOSE 8001 8002
USER 10001:10001
