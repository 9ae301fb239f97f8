# Serves on MLX's CPU build, on arm64 (Apple-silicon hosts) and amd64 hosts.
# Containers on macOS are Linux guests and see no Metal device: for the GPU of a Mac run it
# natively instead:  pip install . && dflash-serve
# Build and run:     docker build -f Dockerfile.metal -t dflash-serve . && docker run -p 8000:8000 dflash-serve

FROM python:3.12-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY pyproject.toml setup.py README.md LICENSE ./
COPY dflash_serve ./dflash_serve
RUN python -m venv /opt/dflash && /opt/dflash/bin/pip install --no-cache-dir .

FROM python:3.12-slim
# g++ is what MLX's compiled graphs use at run time; without it they run op by op.
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home dflash
COPY --from=build /opt/dflash /opt/dflash
USER dflash
ENV PATH=/opt/dflash/bin:$PATH
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD python -c "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health')"
ENTRYPOINT ["dflash-serve", "--host", "0.0.0.0"]
