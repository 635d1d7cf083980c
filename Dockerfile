# syntax=docker/dockerfile:1
#
# GPU image. Data and results are mounted at /workspace:
#   docker build --build-arg UID=$(id -u) -t glmkd-nemo .     # yours, to write to your folder
#   docker run --gpus all --ipc=host --rm -it -v "$PWD:/workspace" glmkd-nemo \
#     scripts/pretrain.py trainer=gpu exp_manager.exp_dir=/workspace/runs ...
#
# Build arguments (docker build --build-arg NAME=VALUE):
#   BASE      image with CUDA, NCCL, PyTorch, Transformer Engine and NVIDIA's Apex, built for each
#             other; they stay as they are. (The PyPI project named "apex" is another thing.) Pin it
#             to the byte with a digest: BASE=nvcr.io/nvidia/pytorch:25.09-py3@sha256:...
#   EXTRAS    extras of pyproject.toml to install: deepspeed (engine=deepspeed), test, docs
#   REQUIRED  modules without which the build stops; drop apex for a base without it: it only
#             makes some kernels faster
#   UID       of the user that everything runs as: it must be able to write to what is mounted at
#             /workspace
ARG BASE=nvcr.io/nvidia/pytorch:25.09-py3

# ---- everything that is installed on top of the base, in an environment of its own ---------------
FROM ${BASE} AS builder

ARG EXTRAS=deepspeed,test
ARG REQUIRED="transformer_engine apex deepspeed"

# The base image sets PIP_CONSTRAINT to its own list, which disagrees with ours. DS_BUILD_OPS=0:
# DeepSpeed compiles a kernel when it is first needed, on the machine that has the GPU.
ENV PIP_CONSTRAINT= \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    DS_BUILD_OPS=0

WORKDIR /opt/glmkd_nemo
COPY constraints.txt ./
# This project's tested versions, but for torch and numpy, which are the base's.
RUN python -m venv --system-site-packages /opt/venv \
    && /opt/venv/bin/python - <<'PY' > constraints.image.txt
from importlib.metadata import version
kept = ("torch", "numpy")
for line in open("constraints.txt"):
    if not line.startswith(tuple(f"{name}==" for name in kept)):
        print(line, end="")
for name in kept:
    print(f"{name}=={version(name)}")
PY

COPY pyproject.toml README.md ./
COPY glmkd_nemo ./glmkd_nemo
# Editable: the package finds conf/ beside itself. Then: is all there that was promised?
RUN /opt/venv/bin/python -m pip install -e ".[${EXTRAS}]" -c constraints.image.txt \
    && /opt/venv/bin/python - <<'PY'
import os
import sys
from importlib.util import find_spec
missing = [name for name in os.environ.get("REQUIRED", "").split() if find_spec(name) is None]
if missing:
    sys.exit(f"not in this image: {', '.join(missing)}; choose another BASE, or change REQUIRED")
PY

# ---- what runs -----------------------------------------------------------------------------------
FROM ${BASE} AS runtime

ARG UID=10001

ENV PATH=/opt/venv/bin:${PATH} \
    PIP_CONSTRAINT= \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1

# The base may have a user of this number already (Ubuntu's own has 1000).
RUN useradd --no-log-init --create-home --non-unique --uid "${UID}" glm \
    && install --directory --owner=glm --group=glm /workspace /opt/glmkd_nemo/runs

WORKDIR /opt/glmkd_nemo
COPY --from=builder /opt/venv /opt/venv
COPY pyproject.toml constraints.txt README.md CHANGELOG.md Makefile ./
COPY glmkd_nemo ./glmkd_nemo
COPY conf ./conf
COPY scripts ./scripts
COPY tests ./tests

USER glm
ENTRYPOINT ["python"]
CMD ["scripts/pretrain.py", "--help"]
