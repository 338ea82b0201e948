"""Every triton kernel, compiled without a GPU for the chips that are supported: it compiles, and it fits.

What a kernel needs is read from what the assembler made: shared memory has to be there, and registers that do not
suffice spill into a stack, which is memory. triton keeps what it has compiled in build/triton, under a hash of itself,
of the kernel and of all that it calls: the next run compiles only what has changed.

`make test` compiles for each chip what the presets need, and what takes longer for two that differ: 7.5 has no matrix
units that triton uses, 9.0 has units of its own. `make test-gpu` compiles all for all (HYPERFIELDS_KERNELS=all).
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from hyperfields import ops

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)
if ops.interpreting():
    pytest.skip("TRITON_INTERPRET is set: nothing is compiled", allow_module_level=True)

# Compute capability -> bytes of shared memory that a program may have. 8.6 and 8.9 run what is made for 8.0, with less.
SHARED = {75: 65_536, 80: 101_376, 90: 232_448, 120: 101_376}
REGISTERS = 255
EVERY = os.environ.get("HYPERFIELDS_KERNELS") == "all"
each_chip = pytest.mark.parametrize("chip", SHARED)
some_chips = pytest.mark.parametrize("chip", SHARED if EVERY else (75, 90))

RAY = {"starts": "*i64", "counts": "*i64", "first": "*i64", "cells": "*u8", "layout": "*i32"}
NUMBERS = {"scenes": "i32", "n_params": "i32", "stride": "i32", "rays": "i32", "of_scene": "i32", "size": "i32"}
REALS = {"slope": "fp32", "half": "fp32", "step": "fp32", "nearest": "fp32", "opaque": "fp32"}


class Needs(NamedTuple):
    """What one compiled kernel takes."""

    registers: int
    stack: int  # bytes a thread
    shared: int  # bytes a program


def compiled(kernel: Any, chip: int, constants: dict[str, Any], options: dict[str, Any], folder: Path) -> Needs:
    """Compile for `chip` as a launch would, with float32 tensors that are aligned as torch aligns them."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types = RAY | NUMBERS | REALS
    signature = {name: "constexpr" if name in constants else types.get(name, "*fp32") for name in kernel.arg_names}
    values = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    aligned = {
        (place,): [["tt.divisibility", 16]] for place, kind in enumerate(signature.values()) if kind.startswith("*")
    }
    source = ASTSource(kernel, signature, values, aligned)
    made = triton.compile(source, target=GPUTarget("cuda", chip, 32), options=options)
    cubin = folder / "kernel.cubin"
    cubin.write_bytes(made.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    said = subprocess.run([tool, "-res-usage", cubin], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", said)
    assert found, said
    return Needs(int(found[1]), int(found[2]), made.metadata.shared)


@pytest.fixture(autouse=True)
def kept_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(Path(__file__).parents[2] / "build" / "triton"))


def encode_kernels(
    dims: int, features: int = 2, levels: int = 8, smooth: bool = False
) -> dict[str, tuple[Any, dict[str, Any], dict[str, Any]]]:
    from hyperfields.ops._triton import encode, packing

    columns = packing.power_of_two(levels * features)
    grid = {"D": dims, "F": features, "C": levels * features, "PC": columns, "SMOOTH": smooth}
    tiles = [{"TILE": encode.tile_of(columns, backward)} for backward in (False, True)]
    options = {"num_warps": encode.WARPS}
    return {
        "forward": (encode.encode_forward, grid | tiles[0], options),
        "backward": (encode.encode_backward, {**grid, **tiles[1], "NEED_X": True, "NEED_TABLE": True}, options),
    }


def ray_kernels() -> dict[str, tuple[Any, dict[str, Any], dict[str, Any]]]:
    from hyperfields.ops._triton import rays

    threads, one = {"BLOCK": rays.RAYS_PER_PROGRAM}, {"BLOCK": rays.SAMPLES_AT_ONCE}
    color = {"C": 3, "PC": 4, **one}
    return {
        "ray_march, counting": (
            rays.march_rays,
            {"CONTRACTED": False, "WRITE": False, **threads},
            {"enable_fp_fusion": False},
        ),
        "ray_march, writing": (
            rays.march_rays,
            {"CONTRACTED": True, "WRITE": True, **threads},
            {"enable_fp_fusion": False},
        ),
        "gather_samples": (rays.place_samples, one, {"num_warps": 1}),
        "early termination": (rays.terminate_rays, threads, {}),
        "composite": (rays.composite_rays, color, {"num_warps": 1}),
        "composite, backward": (rays.composite_rays_backward, color, {"num_warps": 1}),
    }


def mlp_kernels(sizes: tuple[int, ...], precision: str) -> dict[str, tuple[Any, dict[str, Any], dict[str, Any]]]:
    from hyperfields.ops._triton import encode, mlp

    plan = mlp.Plan.of(sizes, "leaky_relu", precision)
    backward = {**plan.constants(True), "KEEP": plan.keep, "NEED_X": True}
    fused = {**plan.constants(False), "D": 3, "F": 2, "C": sizes[0], "SMOOTH": False}
    return {
        "forward": (mlp.mlp_forward, plan.constants(False), plan.options(False)),
        "backward": (mlp.mlp_backward, backward, plan.options(True)),
        "with its encoding": (encode.encode_mlp, fused, plan.options(False)),
    }


@each_chip
def test_kernels_of_grids_and_rays_fit_into_registers(chip: int, tmp_path: Path) -> None:
    kernels = {**{f"encode {name}": kernel for name, kernel in encode_kernels(3).items()}, **ray_kernels()}
    for name, (kernel, constants, options) in kernels.items():
        needs = compiled(kernel, chip, constants, options, tmp_path)
        assert needs.stack == 0, (name, needs)
        assert needs.registers <= REGISTERS, (name, needs)
        assert needs.shared <= 16_384, (name, needs)


# What may spill, bytes a thread: a few numbers, not the activations of a layer. triton does not use the matrix units of
# 7.5, so its products are loops of multiply-adds.
STACK = {75: 512, 80: 384, 90: 256, 120: 384}
STACK_OF_LARGE = 768  # five layers, 64 wide in float32 or 128 wide in 16 bits
STACK_OF_DEEP = {75: 2048, 80: 1280, 90: 1280, 120: 1280}  # five layers that keep their gradients in registers


def assert_networks_fit(
    sizes: tuple[int, ...], precision: str, chip: int, folder: Path, stack: int | None = None
) -> None:
    for name, (kernel, constants, options) in mlp_kernels(sizes, precision).items():
        if name == "with its encoding" and (max(sizes) > 64 or sizes[0] > 32):
            continue  # two kernels: see ops.encode_mlp
        needs = compiled(kernel, chip, constants, options, folder)
        where = f"{sizes} {precision} {name}: {needs}"
        assert needs.shared <= SHARED[chip], where
        assert needs.stack <= (stack or STACK[chip]), where


@each_chip
def test_networks_of_the_presets_fit(chip: int, tmp_path: Path) -> None:
    for precision in ("float32", "mixed") if chip >= 80 else ("float32",):
        assert_networks_fit((16, 32, 32, 16), precision, chip, tmp_path)


@some_chips
def test_networks_64_wide_fit(chip: int, tmp_path: Path) -> None:
    for precision in ("float32", "mixed") if chip >= 80 else ("float32",):
        assert_networks_fit((32, 64, 64, 16), precision, chip, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("dims", [2, 3] if EVERY else [3])  # images have half the corners
@some_chips
def test_grids_of_any_features_fit(chip: int, dims: int, tmp_path: Path) -> None:
    """The widest has 128 columns."""
    for features, levels in ((1, 16), (4, 5), (8, 16)):
        for name, (kernel, constants, options) in encode_kernels(dims, features, levels, smooth=True).items():
            needs = compiled(kernel, chip, constants, options, tmp_path)
            assert needs.stack == 0, (name, features, needs)


DEEP = [(16, 32, 32, 32, 32, 4), (64, 64, 64, 64, 64, 16)]
LARGEST = (128, 128, 128, 128, 128, 128)


def precisions(chip: int, sizes: tuple[int, ...]) -> list[str]:
    """Those that a network may ask for (mlp.why_too_large, product_precision); all 16-bit ones on one chip alone."""
    every = ["float16", "bfloat16"] if chip == 90 and (EVERY or sizes == LARGEST) else []  # "mixed" has both
    return ["float32"] * (max(sizes) <= 64) + ["mixed"] * (chip >= 80) + every


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(1, 1), (16, 16, 16), (32, 16, 16, 16, 16, 16), *DEEP], ids=str)
@some_chips
def test_narrow_and_deep_networks_fit(sizes: tuple[int, ...], chip: int, tmp_path: Path) -> None:
    for precision in precisions(chip, sizes):
        assert_networks_fit(sizes, precision, chip, tmp_path, STACK_OF_DEEP[chip] if sizes in DEEP else None)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [*[(64, 128, 16), (64, 128, 128, 16)] * EVERY, LARGEST], ids=str)
@pytest.mark.parametrize("chip", [80, 90, 120] if EVERY else [90])
def test_wide_networks_fit(sizes: tuple[int, ...], chip: int, tmp_path: Path) -> None:
    for precision in precisions(chip, sizes):
        assert_networks_fit(sizes, precision, chip, tmp_path, STACK_OF_LARGE)
