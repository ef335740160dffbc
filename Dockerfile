FROM docker.io/library/python:3.11-slim AS build
WORKDIR /src
COPY pyproject.toml README.md ./
COPY ociserver ociserver
RUN python3 -m venv /opt/lading && /opt/lading/bin/pip install --no-cache-dir .

FROM docker.io/library/python:3.11-slim
COPY --from=build /opt/lading /opt/lading
RUN useradd --system --uid 10001 lading && mkdir /data && chown lading /data
USER 10001
ENV LADING_HOST=0.0.0.0 \
    LADING_CATALOG=sqlite:////data/catalog.db \
    LADING_BLOBS=file:////data/blobs
VOLUME /data
EXPOSE 5000
HEALTHCHECK --interval=10s --timeout=3s \
    CMD ["/opt/lading/bin/python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:5000/readyz', timeout=2)"]
ENTRYPOINT ["/opt/lading/bin/lading"]
CMD ["serve"]
