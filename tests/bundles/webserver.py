"""A real nginx on loopback that serves a store's folder, and a small server that misbehaves."""

from __future__ import annotations

import http.server
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NGINX = shutil.which("nginx") or "/usr/sbin/nginx"

_CONF = """
daemon off; worker_processes 1; pid {tmp}/nginx.pid; error_log {tmp}/error.log;
{user}
events {{ worker_connections 256; }}
http {{
  access_log {tmp}/access.log combined; default_type application/octet-stream;
  client_body_temp_path {tmp}/b; proxy_temp_path {tmp}/p; fastcgi_temp_path {tmp}/f;
  uwsgi_temp_path {tmp}/u; scgi_temp_path {tmp}/s;
  server {{
    listen 127.0.0.1:{port}{ssl};
    {cert}
    location / {{ root {root}; {extra} }}
    location /moved/ {{ rewrite ^/moved/(.*)$ /$1 redirect; }}
    location /astray/ {{ return 302 http://localhost:{port}/channels/test.json; }}
    location /round/ {{ return 302 /round/; }}
  }}
}}
"""


class Nginx:
    """A running server; `requests` are those it has answered."""

    def __init__(self, tmp: Path, port: int) -> None:
        self.tmp, self.port = tmp, port
        self.url = f"http://127.0.0.1:{port}"

    def requests(self) -> list[str]:
        """Lines of the access log."""
        return (self.tmp / "access.log").read_text().splitlines()


@contextmanager
def nginx(
    root: Path, tmp: Path, *, extra: str = "", tls: tuple[Path, Path] | None = None
) -> Iterator[Nginx]:
    """Serve `root`, over TLS with a certificate and its key; skipped where there is no nginx."""
    if not os.path.exists(NGINX):
        pytest.skip("nginx is not installed")
    tmp.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    user = "user root;" if os.geteuid() == 0 else ""
    conf = tmp / "nginx.conf"
    ssl = " ssl" if tls else ""
    cert = f"ssl_certificate {tls[0]}; ssl_certificate_key {tls[1]};" if tls else ""
    values = {"tmp": tmp, "port": port, "root": root, "extra": extra, "user": user}
    conf.write_text(_CONF.format(**values, ssl=ssl, cert=cert))
    command = [NGINX, "-p", str(tmp), "-e", str(tmp / "error.log"), "-c", str(conf)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 10
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    assert process.poll() is None, (tmp / "error.log").read_text()
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
            yield Nginx(tmp, port)
        finally:
            process.terminate()
            process.wait(10)


@contextmanager
def serving(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    """A threaded server of our own, for what no real one does."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
