# The project's environment for NVIDIA GPUs, with flash-attn, and that of vLLM, which samples. The code is not in it: a
# checkout is mounted at /juicer.
#
#     docker build --file docker/cuda.Dockerfile --tag juicer:cuda .
#
# Compiling flash-attn takes hours on a few cores and 4 GB of memory for each of JOBS. See docs/docker.md.

# The CUDA release that the pinned torch was built with: its compiler is needed here, its libraries come with torch.
ARG BASE_IMAGE=nvidia/cuda:13.0.2-devel-ubuntu24.04
ARG RUNTIME_IMAGE=nvidia/cuda:13.0.2-base-ubuntu24.04

FROM ${BASE_IMAGE} AS build
RUN apt-get update --quiet=2 \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet=2 --no-install-recommends \
        ca-certificates g++ python3-dev python3-venv
RUN python3 -m venv /opt/juicer
ENV PATH=/opt/juicer/bin:$PATH
WORKDIR /build
COPY pyproject.toml constraints.txt ./
RUN python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
print(*project['dependencies'], *project['optional-dependencies']['team'], sep='\n')" > requirements.txt
# With --use-pep517 an old pip, too, keeps what it builds from source in its cache.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=cache,target=/root/.cache/pip \
    python -m pip install --use-pep517 --quiet --disable-pip-version-check --no-input --constraint constraints.txt \
        --requirement requirements.txt
# 80: A100, 90: H100 and H200.
ARG ARCHITECTURES=80;90
ARG JOBS=4
# Without isolation: flash-attn is compiled against the torch that is here.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=cache,target=/root/.cache/pip \
    python -m pip install --quiet --disable-pip-version-check --no-input --constraint constraints.txt \
        ninja packaging psutil setuptools wheel \
    && FLASH_ATTENTION_FORCE_BUILD=TRUE FLASH_ATTN_CUDA_ARCHS="${ARCHITECTURES}" MAX_JOBS="${JOBS}" \
        python -m pip install --quiet --disable-pip-version-check --no-input --constraint constraints.txt \
            --no-build-isolation flash-attn

# vLLM pins other releases of torch and transformers, so it has an environment of its own.
FROM ${BASE_IMAGE} AS vllm
RUN apt-get update --quiet=2 \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet=2 --no-install-recommends \
        ca-certificates g++ python3-dev python3-venv
RUN python3 -m venv /opt/vllm
WORKDIR /build
COPY constraints-vllm.txt ./
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=cache,target=/root/.cache/pip \
    /opt/vllm/bin/python -m pip install --quiet --disable-pip-version-check --no-input \
        --constraint constraints-vllm.txt vllm

FROM ${RUNTIME_IMAGE}
# git: DVC and the flows read the checkout's history. gcc: triton compiles a launcher for its kernels.
RUN apt-get update --quiet=2 \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet=2 --no-install-recommends \
        ca-certificates gcc git libc6-dev python3-dev \
    && rm --recursive /var/lib/apt/lists/*
COPY --from=build /opt/juicer /opt/juicer
COPY --from=vllm /opt/vllm /opt/vllm
# The checkout need not belong to whom the container is run as, so git has to trust it; no other folder.
RUN (userdel --remove ubuntu || true) \
    && useradd --uid 1000 --create-home juicer \
    && chmod 1777 /home/juicer \
    && git config --system --add safe.directory /juicer \
    && install --directory --owner juicer /juicer
# A container that is run as somebody else has no name in /etc/passwd; torch asks for one.
ENV PATH=/opt/juicer/bin:$PATH HOME=/home/juicer USER=juicer PYTHONUNBUFFERED=1 JUICER_CHECKOUT=/juicer \
    JUICER_VLLM_PYTHON=/opt/vllm/bin/python
USER 1000:1000
WORKDIR /juicer
CMD ["python", "-m", "juicer", "check"]
