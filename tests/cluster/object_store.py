"""An S3-compatible server (moto) in a process of its own on loopback, and the environment that leads to it.

Run as a script it is the server: `object_store.py PORT`. moto looks at If-None-Match and stores in two steps, which two threads can mix; real
stores do both at once, so conditional requests are let through one at a time here.
"""

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

BUCKET = "lake"
KEY_ID, SECRET = "AKIAOFATESTONLY00001", "s3cr3t-of-a-test/only+0123456789abcdefghij"


class ObjectStore:
    """The server, with one bucket; `environment` is what a process needs to reach it, credentials included."""

    def __init__(self, folder: Path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.environment = {
            "AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.url, "AWS_ALLOW_HTTP": "true", "AWS_EC2_METADATA_DISABLED": "true",
        }
        self.log = open(folder / "moto.log", "wb")
        self.process = subprocess.Popen([sys.executable, __file__, str(port)], stdout=self.log, stderr=subprocess.STDOUT)
        end = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(urllib.request.Request(f"{self.url}/{BUCKET}", method="PUT"), timeout=5).close()
                return
            except (urllib.error.URLError, OSError):
                assert self.process.poll() is None and time.monotonic() < end, (folder / "moto.log").read_text()
                time.sleep(0.1)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        self.log.close()


def upload(folder: Path, uri: str) -> None:
    """Every file of a folder as an object below the URI; the way to the server stands in this process's environment."""
    from lurm.store import Store

    target = Store(uri)
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        target.write_bytes(target.path(*file.relative_to(folder).parts), file.read_bytes())


def serve(port: int) -> None:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, run_simple

    application, one_at_a_time = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def dispatch(environ, start_response):
        if "HTTP_IF_NONE_MATCH" not in environ:
            return application(environ, start_response)
        with one_at_a_time:
            return list(application(environ, start_response))

    class Quiet(WSGIRequestHandler):
        def log_request(self, *arguments) -> None:
            """A thousand lines of requests help nobody."""

    run_simple("127.0.0.1", port, dispatch, threaded=True, request_handler=Quiet)


if __name__ == "__main__":
    os.environ.setdefault("MOTO_ALLOW_NONEXISTENT_REGION", "true")
    serve(int(sys.argv[1]))
