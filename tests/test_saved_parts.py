"""Parts come back bit for bit from folders of their own, and nothing else does."""

from __future__ import annotations

import pytest
import torch
from strategies import ALL_COMPONENTS, FAMILIES, built
from test_checkpoint import edit, listing
from torch import nn

from diffusers_rec import (
    CausalTransformerEncoder,
    ConditionalMLPDenoiser,
    CosineSchedule,
    Denoiser,
    DiffRec,
    GRUEncoder,
    HistoryEncoder,
    ItemHead,
    Memory,
    SyntheticWorld,
    TableEmbedding,
    TiedHead,
    TimestepSampler,
    load_pretrained,
)
from diffusers_rec.testing.component import SUITES
from diffusers_rec.testing.contract import SIZES
from diffusers_rec.testing.inputs import perturbed


def encoder(seed=0):
    return CausalTransformerEncoder(8, 6, num_layers=1, num_heads=1, seed=seed)


@pytest.mark.parametrize(("family", "name"), ALL_COMPONENTS, ids=lambda part: getattr(part, "kind", part))
def test_every_part_comes_back_bit_for_bit(family, name, tmp_path):
    part = built(family, name)
    if isinstance(part, nn.Module):
        perturbed(part).eval()
    elif isinstance(part, TimestepSampler):
        steps = torch.arange(1, part.num_timesteps + 1).repeat(20)
        part.update(steps, torch.linspace(0.5, 2, len(steps)))
    if family is Memory:
        part.fit(SyntheticWorld(SIZES["num_items"], num_groups=2).sample(30, min_length=2, max_length=5).sequences())
    part.save_pretrained(tmp_path)
    again = family.from_pretrained(str(tmp_path), **{key: getattr(part, key) for key in part.requires})
    assert type(again) is type(part)
    assert again.config() == part.config()
    outputs = SUITES[family.kind].outputs
    for one, other in zip(outputs(again), outputs(part), strict=True):
        assert torch.equal(one, other)
    states = [dict(getattr(each, "state_dict", dict)()) for each in (again, part)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert {file.split("-")[0] for file in listing(tmp_path)} == {"config.json", "model"}


def test_every_kind_is_tried():
    assert {family for family, _ in ALL_COMPONENTS} == set(FAMILIES)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_part_moves_to_another_model(dtype, tmp_path):
    model = DiffRec(range(9), dim=8, max_length=6, denoiser={"name": "conditional-mlp"}, head="tied").to(dtype)
    model.denoiser.save_pretrained(tmp_path / "denoiser")
    model.head.save_pretrained(tmp_path / "head")
    denoiser = Denoiser.from_pretrained(tmp_path / "denoiser")
    assert not any(module.training for module in denoiser.modules())
    assert {tensor.dtype for tensor in denoiser.parameters()} == {dtype}
    head = ItemHead.from_pretrained(tmp_path / "head", embedding=model.embedding)
    assert head.embedding is model.embedding
    other = DiffRec(range(9), dim=8, max_length=6, embedding=model.embedding, denoiser=denoiser, head=head).eval()
    assert torch.equal(other.predict_proba([[1, 2]]), model.eval().predict_proba([[1, 2]]))


def test_a_newer_part_replaces_an_older_one_of_its_kind(tmp_path):
    GRUEncoder(8, 6).save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("mine")
    encoder(1).save_pretrained(tmp_path)
    assert HistoryEncoder.from_pretrained(tmp_path).config() == encoder(1).config()
    assert len(listing(tmp_path)) == 3


def test_kinds_do_not_overwrite_one_another(tmp_path):
    model = DiffRec(range(9), dim=8, max_length=6)
    model.save_pretrained(tmp_path / "model")
    encoder().save_pretrained(tmp_path / "encoder")
    before = listing(tmp_path)
    with pytest.raises(ValueError, match=r"model holds a model, not a part of the kind 'denoiser'\. Choose another"):
        model.denoiser.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=r"encoder holds a part of the kind 'encoder', not a model\. Choose another"):
        model.save_pretrained(tmp_path / "encoder")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"architectures": ["Bert"]}')
    with pytest.raises(ValueError, match="belongs to something else"):
        encoder().save_pretrained(tmp_path / "other")
    (tmp_path / "other" / "config.json").unlink()
    (tmp_path / "other").rmdir()
    assert listing(tmp_path) == before


def test_wrong_kinds_and_classes_are_refused_with_the_way(tmp_path):
    DiffRec(range(9), dim=8, max_length=6).save_pretrained(tmp_path / "model")
    encoder().save_pretrained(tmp_path / "part")
    with pytest.raises(
        ValueError,
        match=r"holds a model, not .* 'denoiser'\. Use from_pretrained of a model's class",
    ):
        Denoiser.from_pretrained(tmp_path / "model")
    with pytest.raises(
        ValueError,
        match=r"kind 'encoder', not .* 'denoiser'\. Use from_pretrained of that kind's",
    ):
        Denoiser.from_pretrained(tmp_path / "part")
    for load in (DiffRec.from_pretrained, load_pretrained):
        with pytest.raises(ValueError, match=r"part holds a part of the kind 'encoder', not a model"):
            load(tmp_path / "part")
    with pytest.raises(ValueError, match="is a CausalTransformerEncoder, expected a GRUEncoder"):
        GRUEncoder.from_pretrained(tmp_path / "part")
    assert isinstance(CausalTransformerEncoder.from_pretrained(tmp_path / "part"), CausalTransformerEncoder)


def test_shared_parts_are_asked_for(tmp_path):
    embedding = TableEmbedding(9, 8)
    TiedHead(embedding).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"lacks embedding\. No config contains other parts: pass embedding=embedding"):
        ItemHead.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="it takes embedding, not schedule"):
        ItemHead.from_pretrained(tmp_path, embedding=embedding, schedule=CosineSchedule(4))
    with pytest.raises(ValueError, match="holds no part that can be built"):
        ItemHead.from_pretrained(tmp_path, embedding=TableEmbedding(8, 8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "oracle"}, "Unknown encoder name: 'oracle'. Known: .*once the module that defines it is imported"),
        ({"name": None}, "Unknown encoder name: None"),
        ({"name": "os.path"}, "Unknown encoder name: 'os.path'"),
        ({"colour": 1}, "Unknown key in the config of encoder"),
        ({"dim": 16}, r"the weights do not fit the model: .*instead of"),
        ({"num_layers": 1000}, r"blocks\.1\..* is missing, .* more"),
    ],
)
def test_a_forged_config_is_refused(changes, message, tmp_path):
    encoder().save_pretrained(tmp_path)
    edit(tmp_path, sign=True, part={**encoder().config(), **changes})
    with pytest.raises(ValueError, match=f"config.json holds no part that can be built .*{message}"):
        HistoryEncoder.from_pretrained(tmp_path)


def test_damage_is_noticed(tmp_path):
    encoder().save_pretrained(tmp_path)
    whole = listing(tmp_path)
    for name, data in whole.items():
        for changed in (data[: len(data) // 2], data[:9] + bytes([data[9] ^ 1]) + data[10:]):
            (tmp_path / name).write_bytes(changed)
            with pytest.raises(ValueError, match=r"damaged|not JSON|not written by this library"):
                HistoryEncoder.from_pretrained(tmp_path)
        (tmp_path / name).write_bytes(data)
    edit(tmp_path, sign=True, kind=3)
    with pytest.raises(ValueError, match="lacks kind"):
        HistoryEncoder.from_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        HistoryEncoder.from_pretrained(tmp_path)


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    part = encoder()
    with torch.no_grad():
        next(part.parameters()).fill_(torch.nan)
    with pytest.raises(ValueError, match="holds values that are not finite"):
        part.save_pretrained(tmp_path / "part")
    assert not (tmp_path / "part").exists()


def test_an_error_leaves_the_older_part(tmp_path, monkeypatch):
    encoder(0).save_pretrained(tmp_path)
    before = listing(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("diffusers_rec.core.files.os.replace", full)
    with pytest.raises(OSError, match="nothing was changed"):
        encoder(1).save_pretrained(tmp_path)
    assert listing(tmp_path) == before


@pytest.mark.usefixtures("fresh_registry")
def test_a_part_without_a_name_is_not_saved(tmp_path):
    class Nameless(ConditionalMLPDenoiser):
        pass

    with pytest.raises(ValueError, match="has no registered name"):
        Nameless(8, 6).save_pretrained(tmp_path / "part")
    assert not (tmp_path / "part").exists()
