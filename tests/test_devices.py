"""Which device and precision may be used."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from hyperfields import cli, ops
from hyperfields.cli import diagnose
from hyperfields.cli import show as showing
from hyperfields.data import Images
from hyperfields.errors import InputError
from hyperfields.ops import dispatch, mlp
from hyperfields.ops.devices import require_precision, saying_what_to_lower, usable_device
from hyperfields.runs.config import FitSettings
from hyperfields.training.fit import Fit

HERE = torch.cuda.is_available()
without_a_gpu = pytest.mark.skipif(HERE, reason="there is a GPU: tests/gpu runs on it")


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Callable[[tuple[int, int]], None]:
    """Makes torch say that there is one NVIDIA GPU of a compute capability."""

    def pretend(capability: tuple[int, int]) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "Card")

    dispatch.capability.cache_clear()
    return pretend


@pytest.fixture(autouse=True)
def forget_capabilities() -> Any:
    yield
    dispatch.capability.cache_clear()


def test_the_cpu_is_always_there() -> None:
    assert usable_device("cpu") == torch.device("cpu")


@without_a_gpu
@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "cuda",
            r"--device cuda: torch sees no CUDA device here( \(.* without CUDA\))?; leave --device out to use the cpu",
        ),
        ("abacus", "--device abacus: torch knows no such device; wanted cpu, cuda or cuda:N"),
        ("meta", "--device meta: wanted cpu, cuda, cuda:N or mps"),
    ],
)
def test_a_device_that_is_not_there_is_named(name: str, message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}$"):
        usable_device(name)


def test_cards_that_are_there_and_too_old_ones(card: Callable[[tuple[int, int]], None]) -> None:
    card((9, 0))
    assert usable_device("cuda:0") == torch.device("cuda:0")
    with pytest.raises(InputError, match="--device cuda:3: torch sees 1 CUDA devices, numbers 0 to 0"):
        usable_device("cuda:3")
    card((6, 1))
    with pytest.raises(InputError, match=r"--device cuda: Card has compute capability 6\.1, the kernels need 7\.5"):
        usable_device("cuda")


@without_a_gpu
def test_a_torch_without_cuda_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(InputError, match=r"no CUDA device here \(.* is a build without CUDA\); leave"):
        usable_device("cuda")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(InputError, match=r"no CUDA device here; leave"):
        usable_device("cuda")


def test_the_doctor_says_what_a_card_can_do(card: Callable[[tuple[int, int]], None]) -> None:
    pytest.importorskip("triton")
    card((9, 0))
    assert diagnose._cuda() == "Card, compute capability 9.0: use it with --device cuda --precision mixed"
    card((7, 5))
    assert diagnose._cuda().startswith(
        "Card, compute capability 7.5: use it with --device cuda; --precision mixed: needs"
    )
    card((6, 1))
    assert diagnose._cuda() == "Card has compute capability 6.1, the kernels need 7.5; use --device cpu"


def test_a_fit_on_a_card_without_triton_says_that_it_is_slow(
    card: Callable[[tuple[int, int]], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    card((9, 0))
    monkeypatch.setattr(dispatch, "_why_no_triton", lambda: "triton is not installed: pip install triton")
    monkeypatch.setattr(
        sys.modules["hyperfields.training.asked"], "usable_device", lambda name: SimpleNamespace(type="cuda")
    )
    monkeypatch.setattr(Fit, "_trainer", lambda *_: SimpleNamespace(objective=None))
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, device: module)
    pictures = Images(torch.rand(2, 4, 4, 3))
    with pytest.warns(UserWarning, match="^--device cuda: triton is not installed: .*; fitting in plain torch"):
        Fit(pictures, tmp_path, FitSettings(steps=1), device="cuda")


def test_mixed_precision_is_for_cards() -> None:
    with pytest.raises(InputError, match="--precision mixed: needs --device cuda; fitting on cpu is in float32"):
        require_precision("mixed", torch.device("cpu"))
    with pytest.raises(InputError, match="--precision half: wanted float32 or mixed"):
        require_precision("half", torch.device("cpu"))  # type: ignore[arg-type]
    require_precision("float32", torch.device("cpu"))


def test_mixed_precision_needs_matrix_units(card: Callable[[tuple[int, int]], None]) -> None:
    pytest.importorskip("triton")
    card((7, 5))
    with pytest.raises(InputError, match=r"--precision mixed: needs compute capability 8\.0, cuda:0 has 7\.5"):
        require_precision("mixed", torch.device("cuda:0"))
    card((8, 6))
    require_precision("mixed", torch.device("cuda:0"))


def test_out_of_memory_says_what_to_lower(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "CUDA out of memory. Tried to allocate 9.00 GiB. GPU 0 has a total capacity of 8.00 GiB"
    with (
        pytest.raises(InputError, match=r"out of memory \(CUDA out of memory\); lower the samples of a step"),
        saying_what_to_lower("lower the samples of a step"),
    ):
        raise torch.cuda.OutOfMemoryError(text)

    def full(*_: object, **__: object) -> None:
        raise torch.cuda.OutOfMemoryError(text)

    monkeypatch.setattr(showing, "load", full)
    assert cli.main(["render", str(tmp_path), "--scene", "a", "--out", "a.png"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "the GPU is out of memory (CUDA out of memory); use a smaller --size, or --device cpu" in said


@without_a_gpu
@pytest.mark.parametrize("verb", ["fit", "render", "eval", "infer"])
def test_every_verb_refuses_a_device_that_is_not_there(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = {
        "fit": ["fit", str(tmp_path), "--out", str(tmp_path / "run")],
        "render": ["render", str(tmp_path), "--scene", "a", "--out", "a.png"],
        "eval": ["eval", str(tmp_path)],
        "infer": ["infer", str(tmp_path), str(tmp_path), "--out", "codes.safetensors"],
    }
    assert cli.main([*words[verb], "--device", "cuda"]) == 2
    said = capsys.readouterr().err
    assert "--device cuda: torch sees no CUDA device here" in said
    assert said.count("\n") == 1


@pytest.mark.skipif(HERE or ops.interpreting(), reason="triton runs here")
def test_a_backend_that_cannot_run_says_so() -> None:
    x, grid = torch.zeros(1, 4, 2), ops.GridSpec.make(2, 2, 2, 8, 4, 1.5)
    with pytest.raises(ValueError, match=r"backend 'triton' cannot run this call: .*; use backend='reference'"):
        ops.hash_encode(x, torch.zeros(1, grid.rows, 2), grid, backend="triton")


def test_backends_say_why_they_cannot_run(card: Callable[[tuple[int, int]], None]) -> None:
    pytest.importorskip("triton")
    x, grid = torch.zeros(1, 4, 2), ops.GridSpec.make(2, 2, 2, 8, 4, 1.5)
    table = torch.zeros(1, grid.rows, 2)
    card((9, 0))
    with pytest.raises(ValueError, match="'triton' cannot run this call: tensors are on cpu, it takes those on a CUDA"):
        ops.hash_encode(x, table, grid, backend="triton")
    card((6, 1))
    with FakeTensorMode(), torch.device("cuda:0"):
        y, entries = torch.zeros(1, 4, 2), torch.zeros(1, grid.rows, 2)
        with pytest.raises(ValueError, match=r"cuda:0 has compute capability 6\.1, wanted at least 7\.5"):
            ops.hash_encode(y, entries, grid, backend="triton")


def test_products_are_in_16_bits_only_where_there_are_matrix_units(card: Callable[[tuple[int, int]], None]) -> None:
    for capability, wanted in (((7, 5), "float32"), ((8, 0), "float16")):
        card(capability)
        dispatch.capability.cache_clear()
        with FakeTensorMode(), torch.device("cuda:0"):
            assert mlp.product_precision(torch.zeros(1, dtype=torch.float16)) == wanted
