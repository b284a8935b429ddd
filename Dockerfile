# The serving image: Python, the base dependencies and ONNX Runtime. Neither torch nor transformers is in it.
# A bundle is not baked in: mount one at /bundle, or build FROM this image and copy one there.
ARG BASE_IMAGE=python:3.12-slim

FROM ${BASE_IMAGE} AS build
# `cpu` or `gpu`: which build of ONNX Runtime to install.
ARG RUNTIME=cpu
WORKDIR /src
RUN python3 -m venv /opt/reflux
# Constraints first: they change more seldom than the code.
COPY constraints.txt ./
COPY pyproject.toml README.md LICENSE ./
COPY distill distill
COPY export export
COPY reflux reflux
COPY service service
RUN /opt/reflux/bin/pip install --no-cache-dir --constraint constraints.txt ".[${RUNTIME},postgres]" \
 && /opt/reflux/bin/pip uninstall --yes pip \
 && find /opt/reflux -name __pycache__ -type d -prune -exec rm -rf {} +

FROM ${BASE_IMAGE}
COPY --from=build /opt/reflux /opt/reflux
RUN groupadd --gid 10001 reflux && useradd --uid 10001 --gid 10001 --no-create-home reflux
ENV PATH=/opt/reflux/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    OMP_NUM_THREADS=1 \
    TOKENIZERS_PARALLELISM=false \
    REFLUX_BUNDLE=/bundle \
    REFLUX_SHADOW__PATH=/data/shadow.sqlite
RUN mkdir /data && chown 10001:10001 /data
VOLUME /data
WORKDIR /data
USER 10001:10001
EXPOSE 8080
CMD ["reflux", "serve"]
