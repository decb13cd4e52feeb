"""The stubs that the package has say what the protos say, and both are in the wheel."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2

from somactl.package_data import data_file

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("rho", "prune")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the compiler of this environment, of whatever release, makes of the protos."""
    out = tmp_path_factory.mktemp("protos") / "set"
    protos = [f"somactl/v1/{name}.proto" for name in NAMES]
    command = [
        "-m",
        "grpc_tools.protoc",
        f"--proto_path={data_file('schemas')}",
        f"--descriptor_set_out={out}",
    ]
    subprocess.run([sys.executable, *command, *protos], check=True, timeout=300)
    files = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    return {each.name: _without_json_names(each) for each in files}


def _without_json_names(file: Any) -> Any:
    """As stubs have it, which leave out what follows from the other names."""
    pending = list(file.message_type)
    while pending:
        message = pending.pop()
        pending += message.nested_type
        for field in message.field:
            field.ClearField("json_name")
    return file


@pytest.mark.parametrize("name", NAMES)
def test_a_stub_says_what_its_proto_says(name: str, compiled: dict[str, Any]) -> None:
    stub = importlib.import_module(f"somactl.serve.pb.{name}_pb2")
    found = descriptor_pb2.FileDescriptorProto.FromString(stub.DESCRIPTOR.serialized_pb)
    assert found == compiled[f"somactl/v1/{name}.proto"]


@pytest.mark.source
def test_each_stub_has_the_digest_of_its_proto() -> None:
    check = subprocess.run([sys.executable, ROOT / ".ci/protos.py", "--check"], timeout=300)
    assert check.returncode == 0


@pytest.mark.source
def test_a_proto_that_was_changed_is_noticed(tmp_path: Path) -> None:
    for folder in (".ci", "schemas/somactl/v1", "somactl/serve/pb"):
        for path in ROOT.joinpath(folder).glob("*.p*"):
            copy = tmp_path / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    tmp_path.joinpath("pyproject.toml").write_bytes(ROOT.joinpath("pyproject.toml").read_bytes())
    command = [sys.executable, tmp_path / ".ci/protos.py", "--check"]
    assert subprocess.run(command, timeout=300).returncode == 0
    with tmp_path.joinpath("schemas/somactl/v1/prune.proto").open("a") as proto:
        proto.write("// more\n")
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert done.stderr.count("run `make protos`") == 3
    assert "rho" not in done.stderr
