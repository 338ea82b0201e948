"""export --format tcnn and import: what goes out comes back, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from hyperfields import cli
from hyperfields.errors import InputError
from hyperfields.fields import BoundField, Field, ImageField, RadianceField, SDFField
from hyperfields.fields.encodings import FactoredGrid, Fourier, HashGrid
from hyperfields.hypernets import LowRank
from hyperfields.model import HyperField, ModelConfig
from hyperfields.runs import tcnn
from hyperfields.runs.codec import read_tensors
from hyperfields.runs.field_file import load_field

FIELDS: dict[str, Field] = {
    "images": ImageField(FactoredGrid(2, 3, 2, 8, 4, 16, bases=3)),
    "shapes": SDFField(HashGrid(3, 3, 2, 8, 4, 16), (20, 9)),
    "views": RadianceField(FactoredGrid(3, 4, 2, 9, 4, 20, bases=2)),
}
each_field = pytest.mark.parametrize("field", FIELDS.values(), ids=FIELDS.keys())


def bound(field: Field) -> BoundField:
    torch.manual_seed(0)
    with torch.no_grad():
        return HyperField(ModelConfig(field, LowRank(2), 5), 1).bind(torch.randn(1, 5))


@each_field
def test_a_field_comes_back_bit_for_bit(field: Field, tmp_path: Path) -> None:
    before, path = bound(field), tmp_path / "a.safetensors"
    tcnn.write_tcnn(path, before, {"name": "one"})
    after, info = tcnn.read_tcnn(path)
    assert info == {"name": "one"}
    assert after.field == before.field
    assert after.weights.keys() == before.weights.keys()
    for name, value in before.weights.items():
        assert torch.equal(after.weights[name], value), name
    again = tmp_path / "b.safetensors"
    tcnn.write_tcnn(again, after, info)
    assert again.read_bytes() == path.read_bytes()
    assert again.with_suffix(".json").read_bytes() == path.with_suffix(".json").read_bytes()


@each_field
def test_the_json_says_how_to_make_the_modules(field: Field, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tcnn.write_tcnn(path, bound(field), {})
    modules = json.loads(path.with_suffix(".json").read_text())["modules"]
    tensors, _ = read_tensors(path)
    assert modules.keys() == tensors.keys()
    assert modules["encoding"]["encoding_config"]["otype"] == "HashGrid"
    for name in tcnn.networks(field):
        config = modules[name]["network_config"]
        width, inputs = config["n_neurons"], -(-modules[name]["n_input_dims"] // 16) * 16
        outputs = -(-modules[name]["n_output_dims"] // 16) * 16
        assert tensors[name].numel() == width * (inputs + (config["n_hidden_layers"] - 1) * width + outputs)


def test_the_json_names_the_activation_of_the_field(tmp_path: Path) -> None:
    path, grid = tmp_path / "a.safetensors", HashGrid(2, 3, 2, 8, 4, 16)
    for activation, name in (("relu", "ReLU"), ("leaky_relu", "LeakyReLU")):
        tcnn.write_tcnn(path, bound(ImageField(grid, activation=activation)), {})
        described = json.loads(path.with_suffix(".json").read_text())["modules"]
        assert described["mlp"]["network_config"]["activation"] == name
        assert tcnn.read_tcnn(path)[0].field.activation == activation
    with pytest.raises(InputError, match="activation sine: tinycudann's is another; fit with relu or leaky_relu"):
        tcnn.write_tcnn(path, bound(ImageField(grid, activation="sine")), {})


def test_parameters_that_were_fitted_further_come_back_too(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tcnn.write_tcnn(path, bound(FIELDS["views"]), {})
    import safetensors.torch

    tensors, header = read_tensors(path)
    tensors["encoding"] += 1.0
    safetensors.torch.save_file(tensors, path, header)
    assert torch.equal(tcnn.read_tcnn(path)[0].weights["grid.table"].flatten(), tensors["encoding"])


def test_what_cannot_be_used_is_said_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(InputError, match="this field's encoding is Fourier; only hash grids have tinycudann's layout"):
        tcnn.write_tcnn(path, bound(ImageField(Fourier(2))), {})
    with pytest.raises(InputError, match=r"--format tcnn is written as \.safetensors"):
        tcnn.write_tcnn(tmp_path / "a.bin", bound(FIELDS["images"]), {})
    with pytest.raises(InputError, match=r"hidden layers \[200\]: tinycudann's networks have at least one, up to 127"):
        tcnn.write_tcnn(path, bound(ImageField(HashGrid(2, 3, 2, 8, 4, 16), (200,))), {})
    with pytest.raises(InputError, match=r"a\.json: No such file or directory; it has to lie beside"):
        tcnn.read_tcnn(path)
    tcnn.write_tcnn(path, bound(FIELDS["images"]), {})
    beside = path.with_suffix(".json")
    good = beside.read_text()
    for text, message in (
        ("{", "damaged, not the JSON"),
        ("[]", "wanted format 'hyperfields-tcnn-1'"),
        (good.replace('"n_neurons": 64', '"n_neurons": 128'), "its modules are not those of its field"),
        (good.replace('"class": "ImageField",', ""), "damaged"),
    ):
        beside.write_text(text)
        with pytest.raises(InputError, match=message):
            tcnn.read_tcnn(path)
    beside.write_text(good)
    other = tmp_path / "b.safetensors"
    tcnn.write_tcnn(other, bound(FIELDS["shapes"]), {})
    path.write_bytes(other.read_bytes())
    with pytest.raises(InputError, match=r"a\.safetensors: encoding: got \d+ parameters, wanted \d+ for its grid"):
        tcnn.read_tcnn(path)


def test_import_writes_a_standalone_field(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, path, out = bound(FIELDS["shapes"]), tmp_path / "a.safetensors", tmp_path / "field.safetensors"
    tcnn.write_tcnn(path, before, {"name": "one"})
    assert cli.main(["import", str(path), "--out", str(out)]) == 0
    assert "wrote" in capsys.readouterr().out
    after = load_field(out)
    x = torch.rand(1, 20, 3) * 2 - 1
    assert torch.equal(after(x), before(x))
    assert cli.main(["import", str(tmp_path / "none.safetensors"), "--out", str(out)]) == 2
    assert "none.json" in capsys.readouterr().err
