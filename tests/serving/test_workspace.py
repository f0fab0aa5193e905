"""The backend directory: what the installation brings, and what of ours it lacks."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpc

from serving import workspace
from serving.errors import InstallationError
from serving.installation import Installation, find_installation
from serving.leftovers import is_plain
from serving.server import EmbeddedServer
from serving.workspace import build_backends
from tests.serving import toys

OWN = {"onnxruntime": 2, "openvino": 7, "torch": 5}
"""Stand-ins for our backends, and what each multiplies with."""


@pytest.fixture
def own_backends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Takes the place of the repository's ``backends``."""
    folder = tmp_path / "own"
    for name, factor in OWN.items():
        toys.add_scaling_backend(folder, name, factor)
    (folder / "__pycache__").mkdir()
    monkeypatch.setattr(workspace, "OWN_BACKENDS", folder)
    return folder


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tritonserver laid out as in NVIDIA's image: a complete Python backend with its stub, and
    other backends beside it; made of nvidia-pytriton's parts."""
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    wheel = find_installation()
    assert wheel.stub is not None
    root = tmp_path / "image" / "tritonserver"
    shutil.copytree(wheel.backends, root / "backends")
    shutil.copy2(wheel.stub, root / "backends" / "python")
    (root / "bin").mkdir()
    shutil.copy2(wheel.binary, root / "bin")
    toys.add_scaling_backend(root / "backends", "onnxruntime", 3)
    # As the image's environment does.
    monkeypatch.setenv("LD_LIBRARY_PATH", str(wheel.library_dirs[-1]))
    return root / "bin" / "tritonserver"


def _names(backends: Path) -> dict[str, Path]:
    return {path.name: path.resolve() for path in backends.iterdir()}


def test_a_wheel_gets_all_of_ours(own_backends: Path, tmp_path: Path) -> None:
    installation = find_installation()
    made = build_backends(installation, tmp_path)
    own = {name: own_backends / name for name in OWN}
    assert _names(made) == {**own, "python": made / "python"}
    assert {path.name for path in (made / "python").iterdir()} == {
        "libtriton_python.so",
        "triton_python_backend_stub",
        "triton_python_backend_utils.py",
    }


def test_an_image_keeps_its_own_and_gets_the_rest(
    own_backends: Path, image: Path, tmp_path: Path
) -> None:
    native = image.parent.parent / "backends" / "tensorrt"
    for name in ("tensorrt", "openvino"):
        (native.parent / name).mkdir()
        (native.parent / name / f"libtriton_{name}.so").touch()
    made = build_backends(find_installation(image), tmp_path)
    assert _names(made) == {
        "onnxruntime": native.parent / "onnxruntime",
        "openvino": own_backends / "openvino",  # the native one would round timesteps
        "python": native.parent / "python",
        "tensorrt": native,
        "torch": own_backends / "torch",
    }


def test_the_repositorys_backends_are_found(tmp_path: Path) -> None:
    (tmp_path / "brought" / "python").mkdir(parents=True)
    installation = Installation(Path("tritonserver"), (), tmp_path / "brought")
    made = build_backends(installation, tmp_path)
    expected = {path.parent.name for path in workspace.OWN_BACKENDS.glob("*/model.py")}
    assert "onnxruntime" in expected
    assert set(_names(made)) == {*expected, "python"}


def test_a_server_without_a_python_backend_is_refused(tmp_path: Path) -> None:
    binary = tmp_path / "tritonserver" / "bin" / "tritonserver"
    binary.parent.mkdir(parents=True)
    binary.touch()
    with pytest.raises(InstallationError, match=r"no Python backend in .*tritonserver/backends"):
        find_installation(binary)


@pytest.mark.server
@pytest.mark.usefixtures("own_backends", "no_traces")
def test_a_server_with_an_images_layout_runs_both(image: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    toys.add_double(models)
    toys.add_double(models, "extra", backend="torch")
    toys.add_echo(models)
    x = grpc.InferInput("x", [1, 2], "FP32")
    x.set_data_from_numpy(np.ones((1, 2), np.float32))
    with (
        EmbeddedServer(model_repository=models, tritonserver=image, start_timeout_s=60) as server,
        grpc.InferenceServerClient(server.grpc_url) as client,
    ):
        within = {"inside": server.credentials.inside}
        answers = {
            name: client.infer(name, [x], parameters=within).as_numpy("y")
            for name in ("double", "extra")
        }
    np.testing.assert_array_equal(answers["double"], np.full((1, 2), 3))
    np.testing.assert_array_equal(answers["extra"], np.full((1, 2), 5))


ODD = "a b:$HOME;`x`'\"&(é)\n"
"""Of a folder's name, what a shell or a list of paths takes for something else."""


def test_odd_paths_are_linked_and_others_are_not(tmp_path: Path) -> None:
    plain, odd = tmp_path / "plain", tmp_path / ODD
    plain.mkdir()
    odd.mkdir()
    found = workspace.plain_paths((odd, plain, odd), tmp_path)
    assert found[1] == plain
    assert found[0].samefile(odd) and found[2].samefile(odd)
    assert all(is_plain(path) for path in found)


def test_models_import_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / ODD
    root.mkdir()
    (root / "is_found.py").write_text("print('found')")
    monkeypatch.setattr(workspace, "REPOSITORY_ROOT", root)
    python = workspace.build_python(tmp_path) / "python3"
    command = [str(python), "-X", "utf8=0", "-c", "import is_found"]
    environment = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout == "found\n", done.stderr


@pytest.mark.server
@pytest.mark.usefixtures("no_traces")
def test_a_server_runs_from_odd_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipelines, models, temporary = (tmp_path / f"{each}{ODD}" for each in "pmt")
    toys.add_pipeline(pipelines)
    toys.add_double(models)
    toys.add_echo(models)
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    text = grpc.InferInput("text", [1], "BYTES")
    text.set_data_from_numpy(np.array([b""], dtype=np.object_))
    with (
        EmbeddedServer([pipelines], model_repository=models, start_timeout_s=60) as server,
        grpc.InferenceServerClient(server.grpc_url) as client,
    ):
        answer = client.infer("echo", [text], client_timeout=10).as_numpy("text")[0].decode()
        assert Path(answer.partition(" ")[2]).samefile(pipelines)
        assert not list(temporary.iterdir())
