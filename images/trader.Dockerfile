# The demo's other programs: a trading process that reads what the agent puts there, and the receiver
# that stands for PagerDuty and Slack (`--entrypoint` or `command`: agent.demo.receiver).
#   docker build -f images/trader.Dockerfile -t jules-demo .
ARG AGENT=jules-agent:latest

FROM ${AGENT}
LABEL org.opencontainers.image.title="jules-demo" \
      org.opencontainers.image.description="The demo's trading process and receiver of pages."
# The bundles of the demo's story, for publishing by hand.
COPY agent/demo/bundles /demo/bundles
# A uid of its own, the agent's group: it may read what is published and change nothing of it.
USER 65533:65532
EXPOSE 8000
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python3", "-I", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=2)"]
ENTRYPOINT ["python3", "-I", "-m"]
CMD ["agent.demo.trader", "--secrets", "/run/secrets/trading", "--models", "/opt/intradayjules/models", "--listen", "0.0.0.0:8000"]
