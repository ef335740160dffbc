# Small, and not root: what builds stays in the first stage. Behind a package mirror, hand pip its
# settings with `--secret id=pip,src=pip.conf`, and authorities of your own with
# `--secret id=authorities,src=FILE` and `cert = /run/secrets/authorities` in those settings.
FROM docker.io/library/python:3.11-slim AS build
# Two environments, so that the one that is handed on has never held pip.
RUN python3 -m venv /opt/pip && python3 -m venv --without-pip /opt/lading
WORKDIR /src
COPY pyproject.toml README.md ./
COPY mlext mlext
COPY ociserver ociserver
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=authorities \
    /opt/pip/bin/pip --python /opt/lading/bin/python install --no-cache-dir .

FROM docker.io/library/python:3.11-slim
# The base brings a pip of its own; nothing here is to be installed later.
RUN rm -rf /usr/local/bin/pip* /usr/local/lib/python3.11/site-packages/* \
    && useradd --no-log-init --no-create-home --shell /usr/sbin/nologin --uid 10001 lading \
    && install --directory --owner=lading --group=lading /data
COPY --from=build /opt/lading /opt/lading
ENV LADING_HOST=0.0.0.0 \
    LADING_PORT=5000 \
    LADING_CATALOG=sqlite:////data/catalog.db \
    LADING_BLOBS=file:////data/blobs
USER 10001:10001
VOLUME /data
EXPOSE 5000
# /healthz, not /readyz: a registry cut off from its catalog still serves what it has, and whoever
# replaces unhealthy containers would end that. It starts only when both stores answer.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
    CMD ["/opt/lading/bin/python", "-Ic", "import http.client, os, ssl, sys; address = (os.environ['LADING_HOST'], int(os.environ['LADING_PORT'])); registry = http.client.HTTPSConnection(*address, timeout=2, context=ssl._create_unverified_context()) if 'LADING_TLS_CERT' in os.environ else http.client.HTTPConnection(*address, timeout=2); registry.request('GET', '/healthz'); sys.exit(registry.getresponse().status != 200)"]
ENTRYPOINT ["/opt/lading/bin/lading"]
CMD ["serve"]
