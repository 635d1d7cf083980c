# GPU image. The base brings CUDA, NCCL, PyTorch, Transformer Engine and NVIDIA's Apex, built for
# each other; they stay as they are. The PyPI project named "apex" is another thing: never installed.
FROM nvcr.io/nvidia/pytorch:25.09-py3

# Everything else at this project's tested versions. The base image sets PIP_CONSTRAINT to its own
# list, which disagrees with ours; torch and numpy are left to the base.
ENV PIP_CONSTRAINT= \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1

WORKDIR /opt/glmkd_nemo
COPY pyproject.toml constraints.txt README.md ./
COPY glmkd_nemo ./glmkd_nemo
RUN python - <<'PY' > constraints.image.txt
from importlib.metadata import version
kept = ("torch", "numpy")
for line in open("constraints.txt"):
    if not line.startswith(tuple(f"{name}==" for name in kept)):
        print(line, end="")
for name in kept:
    print(f"{name}=={version(name)}")
PY
RUN python -m pip install -e '.[test]' -c constraints.image.txt
COPY conf ./conf
COPY scripts ./scripts
COPY tests ./tests
COPY Makefile CHANGELOG.md ./

RUN useradd --create-home --uid 10001 glm && chown -R glm:glm /opt/glmkd_nemo
USER glm
ENTRYPOINT ["python"]
CMD ["scripts/pretrain.py", "--help"]
