# The project's environment for a machine without a GPU. The code is not in it: a checkout is mounted at /juicer.
#
#     docker build --file docker/cpu.Dockerfile --tag juicer:cpu .
#
# The secret `pip` is a pip.conf for machines that have package indexes of their own (docs/docker.md).

# Any Debian 12, whose Python is 3.11.
ARG BASE_IMAGE=debian:bookworm-20260824-slim@sha256:88200866dfff7ea7f5cbcb6ec7c8a701889efe6fe859fe64d6990e4b07ea4171

FROM ${BASE_IMAGE} AS base
# git: DVC and the flows read the checkout's history.
RUN apt-get update --quiet=2 \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet=2 --no-install-recommends \
        ca-certificates git python3 \
    && rm --recursive /var/lib/apt/lists/*

FROM base AS build
RUN apt-get update --quiet=2 \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet=2 --no-install-recommends python3-venv
RUN python3 -m venv /opt/juicer
ENV PATH=/opt/juicer/bin:$PATH
WORKDIR /build
COPY pyproject.toml constraints.txt ./
# Servers of a team keep their data in Postgres and S3: the extra `team`.
RUN python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
print(*project['dependencies'], *project['optional-dependencies']['team'], sep='\n')" > requirements.txt
# With --use-pep517 an old pip, too, keeps what it builds from source in its cache.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=cache,target=/root/.cache/pip \
    python -m pip install --use-pep517 --quiet --disable-pip-version-check --no-input --constraint constraints.txt \
        --requirement requirements.txt

FROM base
COPY --from=build /opt/juicer /opt/juicer
# The checkout need not belong to whom the container is run as, so git has to trust it; no other folder.
RUN useradd --uid 1000 --create-home juicer \
    && chmod 1777 /home/juicer \
    && git config --system --add safe.directory /juicer \
    && install --directory --owner juicer /juicer
# A container that is run as somebody else has no name in /etc/passwd; torch asks for one.
ENV PATH=/opt/juicer/bin:$PATH HOME=/home/juicer USER=juicer PYTHONUNBUFFERED=1 JUICER_CHECKOUT=/juicer
USER 1000:1000
WORKDIR /juicer
CMD ["python", "-m", "juicer", "check"]
