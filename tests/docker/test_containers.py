"""The container files, as far as they can be held without an engine: pinned, not root, healthy by a check, no secret, every file there."""

import http.server
import os
import re
import runpy
import shutil
import subprocess
import threading

import pytest
import yaml
from test_house import ROOT

from spark_jobs.class_archive import ARCHIVE, QUIET

DOCKER = ROOT / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
GPU = yaml.safe_load((DOCKER / "compose.gpu.yaml").read_text(encoding="utf-8"))
SERVICES = COMPOSE["services"]
PINNED = re.compile(r"^[a-z/]+:\d+\.\d+[.\w-]*@sha256:[0-9a-f]{64}$")
TARGETS = re.findall(r"^FROM \S+ AS (\w+)$", DOCKERFILE, re.MULTILINE)


def stages() -> dict[str, str]:
    """Text of each target of the Dockerfile."""
    parts = re.split(r"^FROM (\S+) AS (\w+)$", DOCKERFILE, flags=re.MULTILINE)
    return {parts[place + 1]: parts[place + 2] for place in range(1, len(parts), 3)}


def test_bases_are_pinned_by_tag_and_digest():
    bases = [base for base in re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) if base not in TARGETS]
    assert bases and all(PINNED.match(base) for base in bases), bases
    images = [service["image"] for service in SERVICES.values() if "build" not in service]
    assert images and all(PINNED.match(image) for image in images), images


def test_spark_submit_is_told_of_the_archive_that_the_image_makes():
    assert f'SPARK_SUBMIT_OPTS="-XX:SharedArchiveFile=/usr/local/{ARCHIVE.name} {QUIET}"' in stages()["worker"], "sys.prefix of the image's Python"


def test_nobody_is_root_and_everybody_has_a_health_check():
    for name, text in stages().items():
        users = re.findall(r"^USER (\S+)", text, re.MULTILINE)
        assert users[-1] == "lurm" and "HEALTHCHECK" in text, name
    for name, service in SERVICES.items():
        assert service.get("user") not in ("root", "0", 0) and not service.get("privileged"), name
        assert service["healthcheck"]["test"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "build" in service or service["user"] == "postgres", f"{name}: the image's own user may be root"


def test_no_secret_is_written_down():
    """Whatever is called a secret comes from the environment, and a missing one stops compose instead of becoming empty."""
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD$|SECRET|KEY$|SQL_ALCHEMY_CONN", variable):
                assert re.search(r"\$\{\w+:\?[^}]+\}", value), f"{name}: {variable}"
    example = (DOCKER / ".env.example").read_text()
    for variable in re.findall(r"\$\{(\w+):\?", (DOCKER / "compose.yaml").read_text()):
        assert re.search(rf"^{variable}=", example, re.MULTILINE), variable
    assert not re.search(r"^\w*(PASSWORD|SECRET|KEY)=.+$", example, re.MULTILINE)
    answer = subprocess.run(["git", "check-ignore", "docker/.env", ".airflow/x"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.stdout.split() == ["docker/.env", ".airflow/x"]
    assert "docker/.env" in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()


def test_only_the_web_server_is_reachable_and_on_loopback():
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert list(published) == ["api-server"] and all(port.startswith("127.0.0.1:") for port in published["api-server"])


def test_every_file_that_is_named_exists():
    for paths in re.findall(r"^COPY (?!--)(.+) \S+$", DOCKERFILE, re.MULTILINE):
        for path in paths.split():
            assert (ROOT / path).exists(), path
    texts = [DOCKERFILE, (DOCKER / "compose.yaml").read_text(), (DOCKER / "compose.gpu.yaml").read_text(), (DOCKER / "init.sh").read_text()]
    inside = {path for text in texts for path in re.findall(r"/opt/lurm/((?:docker|dags|spark_jobs)[\w./-]*)", text)}
    assert {"docker/answers.py", "docker/init.sh", "docker/pools.json", "docker/find_gpus.sh", "dags", "spark_jobs"} <= inside
    assert [path for path in inside if not (ROOT / path).exists()] == []
    for service in SERVICES.values():
        if "build" in service:
            assert (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).is_file() and service["build"]["target"] in TARGETS
    for script in DOCKER.glob("*.sh"):
        assert os.access(script, os.X_OK) and subprocess.run(["bash", "-n", script], check=False).returncode == 0, script


def test_what_is_copied_is_not_ignored():
    """The ignore file lets nothing in but what it names; each COPY must be among it."""
    lines = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    let_in = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines
    assert {path for paths in re.findall(r"^COPY (?!--)(.+) \S+$", DOCKERFILE, re.MULTILINE) for path in paths.split()} <= let_in


def test_versions_of_python_and_of_the_package_are_ours():
    import lurm

    assert "python:3.11" in DOCKERFILE
    assert {service["image"] for service in SERVICES.values() if "build" in service} == {
        f"lurm-{target}:{lurm.__version__}" for target in ("airflow", "worker")
    }


def test_the_gpu_file_is_an_overlay_of_the_same_services():
    assert set(GPU["services"]) <= set(SERVICES) and set(GPU["services"]) == {name for name in SERVICES if "build" in SERVICES[name]}
    with_gpu = [name for name, service in GPU["services"].items() if "deploy" in service]
    assert sorted(with_gpu) == ["scheduler", "spark-worker"]  # trainings run where the scheduler is, embeddings on the workers
    for name in with_gpu:
        device = GPU["services"][name]["deploy"]["resources"]["reservations"]["devices"][0]
        assert device["driver"] == "nvidia" and device["capabilities"] == ["gpu"] and device["count"] == 1


@pytest.fixture
def page():
    """A web server with two health pages and a page that is no JSON."""
    pages = {
        "/well": b'{"scheduler": {"status": "healthy"}, "triggerer": {"status": null}, "version": "3"}',
        "/ill": b'{"scheduler": {"status": "unhealthy"}}', "/text": b"hello",
    }

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path in pages else 404)
            self.end_headers()
            self.wfile.write(pages.get(self.path, b""))

        def log_message(self, *words):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_the_health_check_tells_well_from_ill(page):
    problem = runpy.run_path(str(DOCKER / "answers.py"))["problem"]
    assert problem(f"{page}/well") is None and problem(f"{page}/text") is None
    assert problem(f"{page}/ill") == "Expected every component to be healthy, scheduler is not."
    assert problem(f"{page}/none") == f"Expected {page}/none to answer, got HTTP Error 404: Not Found."


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose is not installed; it needs no engine to read its files")
@pytest.mark.parametrize("files", [["compose.yaml"], ["compose.yaml", "compose.gpu.yaml"]], ids=len)
def test_compose_understands_its_files(files, tmp_path):
    known = {"AIRFLOW_PORT": "8081", "LURM_DATA": str(tmp_path)}
    example = (DOCKER / ".env.example").read_text()
    filled = tmp_path / "env"
    filled.write_text(re.sub(r"^(\w+)=$", lambda line: f"{line[1]}={known.get(line[1], 'x')}", example, flags=re.MULTILINE))
    command = ["docker-compose", "--env-file", str(filled), *(part for file in files for part in ("-f", str(DOCKER / file))), "config"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert answer.returncode == 0, answer.stderr
    assert set(yaml.safe_load(answer.stdout)["services"]) == set(SERVICES)
