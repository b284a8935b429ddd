# The image of Reflux: Python, the base dependencies, PostgreSQL's client and ONNX Runtime. It runs every command that needs
# neither torch nor transformers: serve, worker, migrate, pull, replay, status. No compiler and no pip are in it. With
# `--build-arg RUNTIME=gpu` it has CUDA and cuDNN, too, and serves on a GPU where the host has a driver (docs/gpu.md); with
# `RUNTIME=cpu,distill` it has torch, and runs every command.
# A bundle is not baked in: mount one at /bundle, or build FROM this image and copy one there.
#
# The base is pinned by the digest of its index for all platforms. `docker buildx imagetools inspect python:3.12-slim` prints the
# digest of today, with which this line is refreshed.
ARG BASE_IMAGE=python:3.12.14-slim-trixie@sha256:78387bc3881b8273120a12ebe6c1ab22b018ccc2c9adf565ae1ac9b536e184ea

FROM ${BASE_IMAGE} AS build
# `cpu` or `gpu`: which build of ONNX Runtime to install. Other extras of pyproject.toml can follow: `cpu,otel`, `cpu,s3`.
ARG RUNTIME=cpu
ARG CYCLONEDX_VERSION=7.5.0
WORKDIR /src
RUN python3 -m venv /opt/reflux && python3 -m venv /opt/sbom \
 && /opt/sbom/bin/pip install --no-cache-dir "cyclonedx-bom==${CYCLONEDX_VERSION}"
# Constraints first: they change more seldom than the code.
COPY constraints.txt ./
COPY pyproject.toml README.md LICENSE ./
COPY client client
COPY distill distill
COPY export export
COPY reflux reflux
COPY service service
# Out goes what no command of the image reads: packages' own tests, sources of C, and whatever builds packages.
# The extra `distill` needs the client, which lies beside.
RUN /opt/reflux/bin/pip wheel --no-cache-dir --no-deps --wheel-dir /wheels ./client \
 && /opt/reflux/bin/pip install --no-cache-dir --constraint constraints.txt --find-links /wheels ".[${RUNTIME},postgres]" \
 && /opt/sbom/bin/cyclonedx-py environment /opt/reflux/bin/python --pyproject pyproject.toml \
      --output-reproducible --output-file /opt/reflux/sbom.cdx.json \
 && /opt/reflux/bin/pip uninstall --yes pip setuptools \
 && find /opt/reflux -depth -type d \( -name __pycache__ -o -path '*/site-packages/*/tests' \) -exec rm -rf {} + \
 && find /opt/reflux -type f \( -name '*.c' -o -name '*.h' -o -name '*.pyx' -o -name '*.a' \) -delete

FROM ${BASE_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="reflux" \
      org.opencontainers.image.description="Serves a distilled classifier and measures its live distillation gap" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}"
# The base's own pip, and the copy from which `venv` would install another.
RUN rm -rf /usr/local/bin/pip* /usr/local/lib/python3*/site-packages/* /usr/local/lib/python3*/ensurepip \
      /usr/bin/pip* /usr/lib/python3/dist-packages/pip* /usr/lib/python3*/ensurepip /usr/share/python-wheels \
 && groupadd --gid 10001 reflux && useradd --uid 10001 --gid 10001 --no-create-home reflux \
 && mkdir /data && chown 10001:10001 /data
COPY --from=build /opt/reflux /opt/reflux
# NVIDIA_DRIVER_CAPABILITIES: what NVIDIA's container runtime brings of the driver, if a GPU is asked for.
# TOKENIZERS_PARALLELISM is no secret, but looks like one to hadolint.
# hadolint ignore=DL3064
ENV PATH=/opt/reflux/bin:$PATH \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    OMP_NUM_THREADS=1 \
    TOKENIZERS_PARALLELISM=false \
    REFLUX_BUNDLE=/bundle \
    REFLUX_SHADOW__PATH=/data/shadow.sqlite
VOLUME /data
WORKDIR /data
USER 10001:10001
EXPOSE 8080
CMD ["reflux", "serve"]
