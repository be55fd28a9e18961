# Training on NVIDIA GPUs, from the top of a clone, with the NVIDIA Container Toolkit on the machine:
#   docker build -f tools/release/containers/train.Dockerfile -t drsn-jax-train .
#   docker run --rm --gpus=all -v "$PWD/runs:/runs" -v "$PWD/data:/data" --user "$(id -u)" drsn-jax-train \
#     train --config=best --workdir=/runs/gopro --config.train_dir=gopro:train
# Python alone underneath: CUDA and cuDNN come as packages with jax[cuda12], the driver with the machine.
# docker stop sends SIGTERM, which saves and ends; give it a minute (--timeout=60).
FROM python:3.13-slim-bookworm AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY configs configs
COPY drsn_jax drsn_jax
RUN python -m venv /opt/drsn-jax && /opt/drsn-jax/bin/pip install --no-cache-dir '.[data,demo,evaluation]' 'jax[cuda12]'

FROM python:3.13-slim-bookworm
COPY --from=build /opt/drsn-jax /opt/drsn-jax
RUN useradd --create-home --uid 10001 drsn && mkdir /runs /data && chown 10001 /runs /data
ENV PATH=/opt/drsn-jax/bin:$PATH
# A user of the machine (--user) has no home in here.
ENV HOME=/tmp TFDS_DATA_DIR=/data NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001
WORKDIR /runs
VOLUME ["/runs", "/data"]
ENTRYPOINT ["drsn-jax"]
CMD ["train", "--config=demo", "--workdir=/runs/demo"]
