# The agent's image: Python, the hash-locked packages and the agent; no shell, no pip, no compiler.
#   make image                                          fetches the wheels first, then builds
#   docker build -f images/agent.Dockerfile -t jules-agent .     fetches them while building
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS build
# How the site's own package index is reached, if at all otherwise than by default. They stay in
# this stage.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST
ARG PIP_CERT
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_CACHE_DIR=1
# Versions are those of the base's stable release: pin them by pinning BASE.
# hadolint ignore=DL3008
RUN apt-get update -qq \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        ca-certificates python3 python3-pip tzdata >/dev/null \
    && rm -rf /var/lib/apt/lists/*
COPY requirements.lock /src/
COPY images/local /local
# /local/wheels, where `make image` has put it, is then the only index.
RUN if [ -d /local/wheels ]; then export PIP_NO_INDEX=1 PIP_FIND_LINKS=/local/wheels; fi \
    && pip install --quiet --require-hashes --no-deps --only-binary :all: \
        --target /site -r /src/requirements.lock
COPY pyproject.toml README.md LICENSE images/rootfs.sh /src/
COPY agent /src/agent
COPY rules /src/rules
RUN if [ -d /local/wheels ]; then export PIP_NO_INDEX=1 PIP_FIND_LINKS=/local/wheels; fi \
    && pip wheel --quiet --no-deps --wheel-dir /wheel /src \
    && rm -rf /site/bin \
    && pip install --quiet --no-deps --no-index --target /site /wheel/*.whl \
    && sh /src/rootfs.sh /site /rootfs
RUN mkdir /owned

FROM scratch
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="jules-agent" \
      org.opencontainers.image.description="Secrets, model bundles and alerts beside one trading pod." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /rootfs /
# A new volume takes its owner from the folder that it covers.
COPY --from=build --chown=65532:65532 /owned /opt/intradayjules/models
COPY --from=build --chown=65532:65532 /owned /var/lib/jules-agent
COPY --from=build --chown=65532:65532 /owned /etc/jules-agent/key
COPY --from=build --chown=65532:65532 /owned /srv/bundles
COPY --from=build --chown=65532:65532 /owned /run/secrets/trading
COPY --from=build --chown=65532:65532 /owned /run/jules-agent
ENV PATH=/usr/local/bin:/usr/bin \
    LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 \
    JULES_CONFIG=/etc/jules-agent/agent.yaml
USER 65532:65532
EXPOSE 9900
# Healthy means ready: `status` ends with 5 while something that the trader needs is missing.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["jules-agent", "status"]
ENTRYPOINT ["jules-agent"]
CMD ["run"]
