# The web page on a CPU, from the top of a clone:
#   docker build -f tools/release/containers/serve.Dockerfile -t drsn-jax-serve .
#   docker run --rm --read-only --tmpfs /tmp -p 127.0.0.1:8765:8765 drsn-jax-serve
# Without 127.0.0.1 before the port everybody who reaches the machine can use the page: there is no password.
FROM python:3.13-slim-bookworm AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY configs configs
COPY drsn_jax drsn_jax
RUN python -m venv /opt/drsn-jax && /opt/drsn-jax/bin/pip install --no-cache-dir '.[serve,heif]'

FROM python:3.13-slim-bookworm
COPY --from=build /opt/drsn-jax /opt/drsn-jax
RUN useradd --create-home --uid 10001 drsn
ENV PATH=/opt/drsn-jax/bin:$PATH
USER 10001
WORKDIR /home/drsn
EXPOSE 8765
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8765/health', timeout=5)"]
ENTRYPOINT ["drsn-jax", "serve", "--host=0.0.0.0"]
CMD ["--model=small"]
