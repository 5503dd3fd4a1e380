"""What docker/compose.yaml promises to whoever starts it: nothing open, nobody root, no password that is known."""

import re
from typing import Any

import pytest

from juicer.runtime.files import read_json, read_yaml
from tests.conftest import ROOT

TEXT = (ROOT / "docker/compose.yaml").read_text()
SERVICES: dict[str, dict[str, Any]] = read_yaml(ROOT / "docker/compose.yaml")["services"]
RUN_ONCE = {name for name, service in SERVICES.items() if service["restart"] == "no"}
SECRETS = {
    "POSTGRES_PASSWORD",
    "OBJECTS_USER",
    "OBJECTS_PASSWORD",
    "MLFLOW_OBJECTS_PASSWORD",
    "DVC_PASSWORD",
    "JUICER_SECRET",
}
EXAMPLE = dict(re.findall(r"^([A-Z_]+)=(.*)$", (ROOT / "docker/env.example").read_text(), re.MULTILINE))


def test_what_a_team_needs_is_there():
    assert {"postgres", "objects", "mlflow", "prefect", "worker", "worker-gpu"} == SERVICES.keys() - RUN_ONCE


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_is_root_or_may_become_it(name):
    user = SERVICES[name]["user"].removeprefix("${JUICER_USER:-").removesuffix("}")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    assert SERVICES[name]["cap_drop"] == ["ALL"]
    assert SERVICES[name]["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("name", SERVICES)
def test_what_keeps_running_says_whether_it_is_well(name):
    assert ("healthcheck" in SERVICES[name]) == (name not in RUN_ONCE)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_waits_until_those_that_it_needs_are_well(name):
    for needed, waits in SERVICES[name].get("depends_on", {}).items():
        well = "service_completed_successfully" if needed in RUN_ONCE else "service_healthy"
        assert waits["condition"] == well


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_open_on_this_machine_only_unless_another_address_is_given(name):
    assert all(port.startswith("${JUICER_ADDRESS:-127.0.0.1}:") for port in SERVICES[name].get("ports", []))


def test_who_holds_a_gpu_outlives_a_restart_of_prefect_s_server():
    server = SERVICES["prefect"]
    assert server["environment"]["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"].endswith("filesystem")
    assert f"prefect:{server['environment']['PREFECT_HOME']}" in server["volumes"]


@pytest.mark.parametrize("name", ["prefect", "mlflow"])
def test_a_server_that_asks_nobody_who_calls_it_is_behind_the_gate(name):
    service = SERVICES[name]
    assert service["command"][:4] == ["python", "-m", "flows.gate", name]
    assert service["environment"]["JUICER_GATE_SECRET"] == "${JUICER_SECRET:?in docker/.env}"
    assert "*" not in service["environment"]["JUICER_GATE_HOSTS"]
    assert f"../flows:{service['environment']['PYTHONPATH']}/flows:ro" in service["volumes"]


def test_the_administrator_of_the_object_store_is_nobody_s_user_there():
    with_root = {name for name, service in SERVICES.items() if "OBJECTS_USER" in str(service.get("environment"))}
    assert with_root == {"objects", "buckets"}
    users = {name: SERVICES[name]["environment"]["AWS_ACCESS_KEY_ID"] for name in ("mlflow", "worker", "setup")}
    assert users == {"mlflow": "mlflow", "worker": "dvc", "setup": "dvc"}


def test_a_user_of_the_object_store_can_use_one_bucket():
    for statement in read_json(ROOT / "docker/bucket-policy.json")["Statement"]:
        assert statement["Effect"] == "Allow"
        assert {each.removesuffix("/*") for each in statement["Resource"]} == {"arn:aws:s3:::${aws:username}"}
        assert not any("*" in action for action in statement["Action"])


@pytest.mark.parametrize("secret", sorted(SECRETS))
def test_compose_refuses_to_start_without_each_secret_and_the_example_gives_none(secret):
    used = re.findall(rf"\$\{{{secret}(.)", TEXT)
    assert used and set(used) == {":"}
    assert set(re.findall(rf"\$\{{{secret}:(.)", TEXT)) == {"?"}
    assert EXAMPLE[secret] == ""


def test_every_variable_is_in_the_example():
    assert set(re.findall(r"\$\{([A-Z_]+)", TEXT)) | {"COMPOSE_PROFILES"} == EXAMPLE.keys()


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_ours_or_pinned_by_content(name):
    assert re.fullmatch(r"juicer:(cpu|cuda)|.+:.+@sha256:[0-9a-f]{64}", SERVICES[name]["image"])


@pytest.mark.parametrize("file", ["cpu.Dockerfile", "cuda.Dockerfile"])
def test_an_image_can_have_another_base_and_ends_as_nobody_s_root(file):
    lines = (ROOT / "docker" / file).read_text().splitlines()
    assert any(line.startswith("ARG BASE_IMAGE=") for line in lines)
    assert "FROM ${BASE_IMAGE}" in "\n".join(lines)
    assert [line for line in lines if line.startswith("USER ")][-1] == "USER 1000:1000"
    assert not any(line.startswith("# syntax=") for line in lines)
    assert [line.split()[-2] for line in lines if "safe.directory" in line] == ["/juicer"]


def test_the_image_for_gpus_has_an_environment_of_its_own_for_vllm():
    text = (ROOT / "docker/cuda.Dockerfile").read_text()
    final = text[text.rindex("\nFROM ") :]
    assert re.findall(r"COPY --from=(\w+) (\S+) (\S+)", final) == [
        ("build", "/opt/juicer", "/opt/juicer"),
        ("vllm", "/opt/vllm", "/opt/vllm"),
    ]
    assert "JUICER_VLLM_PYTHON=/opt/vllm/bin/python" in final
    assert "!constraints-vllm.txt" in (ROOT / ".dockerignore").read_text().splitlines()
    assert re.search(r"--constraint constraints-vllm.txt vllm\n", text)
    assert re.search(r"^vllm==", (ROOT / "constraints-vllm.txt").read_text(), re.MULTILINE)
