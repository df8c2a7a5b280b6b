from __future__ import annotations

import re
from abc import ABC
from types import SimpleNamespace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import ALL_COMPONENTS, FAMILIES, built, settings_of

from diffusers_rec.core import deprecation, registry
from diffusers_rec.core.registry import Component
from diffusers_rec.denoisers import Denoiser, TransformerDenoiser
from diffusers_rec.items.heads import ItemHead, TiedHead
from diffusers_rec.processes.schedules import NoiseSchedule, SqrtSchedule
from diffusers_rec.recommenders.diffrec import DiffRec
from diffusers_rec.testing.all_kinds import expect_config_round_trip
from diffusers_rec.testing.component import SUITES


def entry_point(monkeypatch, name, load, kind="schedule"):
    """Pretend that another package declares this entry point."""

    def entry_points(*, group, **selection):
        wanted = group == f"diffusers_rec.{kind}" and selection.get("name", name) == name
        return [SimpleNamespace(name=name, load=load)] if wanted else []

    monkeypatch.setattr(registry, "entry_points", entry_points)


@given(data=st.data())
@pytest.mark.parametrize(("family", "name"), ALL_COMPONENTS)
def test_a_config_goes_to_json_and_back_to_an_equal_component(family, name, data):
    given_config = data.draw(settings_of(family, name))
    try:
        component = built(family, given_config)
    except ValueError:
        assume(False)
    expect_config_round_trip(SUITES[family.kind], component, given_config)


@pytest.mark.parametrize(("family", "name"), ALL_COMPONENTS)
def test_names_lead_to_their_classes(family, name):
    assert family.named(name).registered_name == name
    assert issubclass(family.named(name), family)
    assert isinstance(built(family, name), family.named(name))


@pytest.mark.parametrize(("family", "name"), ALL_COMPONENTS)
def test_a_component_is_built_already(family, name):
    component = built(family, name)
    assert family.build(component) is component


@pytest.mark.parametrize("family", FAMILIES)
def test_unknown_names_are_refused_with_those_known_and_the_nearest(family):
    name = family.names()[0]
    with pytest.raises(
        ValueError, match=f"Unknown {family.kind} name.*Known: .*{name}.*Did you mean '{name}'"
    ) as error:
        built(family, name + "s")
    assert all(known in str(error.value) for known in family.names())
    with pytest.raises(ValueError, match=f"Unknown {family.kind} name: 3"):
        family.build({"name": 3})


@pytest.mark.parametrize(("family", "name"), ALL_COMPONENTS)
def test_unknown_keys_are_refused(family, name):
    with pytest.raises(ValueError, match=f"Unknown key in the config of {family.kind} '{re.escape(name)}': 'nonsense'"):
        built(family, {"name": name, "nonsense": 1})


def test_a_mistyped_key_is_answered_by_the_nearest():
    with pytest.raises(ValueError, match=r"'num_timestep'.*Did you mean 'num_timesteps'"):
        NoiseSchedule.build({"name": "sqrt", "num_timestep": 10})


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        (3, TypeError, "got int"),
        (None, TypeError, "got NoneType"),
        (["sqrt"], TypeError, "got list"),
        ({}, ValueError, "needs the key 'name'"),
        ({"num_timesteps": 3}, ValueError, "needs the key 'name'"),
    ],
)
def test_refuses_what_is_no_spec(family, spec, error, message):
    with pytest.raises(error, match=message):
        family.build(spec)


def test_missing_parameters_are_named():
    with pytest.raises(ValueError, match="config of head 'linear' lacks num_items"):
        ItemHead.build("linear")
    with pytest.raises(ValueError, match="config of head 'tied' lacks embedding"):
        ItemHead.build("tied")


def test_a_config_never_holds_what_the_pipeline_supplies():
    head = built(ItemHead, "tied")
    assert head.config() == {"name": "tied", "use_bias": True}
    with pytest.raises(ValueError, match=r"Unknown key.*'embedding'. Known: use_bias\."):
        ItemHead.build({"name": "tied", "embedding": head.embedding}, embedding=head.embedding)


def test_a_config_outweighs_defaults():
    assert (
        NoiseSchedule.build_with({"num_timesteps": 9, "dim": 4}, {"name": "sqrt", "num_timesteps": 3}).num_timesteps
        == 3
    )
    assert NoiseSchedule.build_with({"num_timesteps": 9, "dim": 4}, "sqrt").num_timesteps == 9


def test_a_subclass_builds_its_own_kin_alone():
    assert isinstance(TransformerDenoiser.build("transformer", dim=4), TransformerDenoiser)
    with pytest.raises(ValueError, match=r"is a CausalTransformerDenoiser, expected a TransformerDenoiser"):
        TransformerDenoiser.build("causal-transformer", dim=4)
    with pytest.raises(TypeError, match="got SqrtSchedule"):
        Denoiser.build(SqrtSchedule())


@pytest.mark.parametrize(("family", "name"), ALL_COMPONENTS)
def test_a_name_has_one_owner(family, name, fresh_registry):
    with pytest.raises(
        ValueError, match=f"the {family.kind} name '{re.escape(name)}' is taken by .*Choose another name"
    ):
        type("Usurper", (family,), {}, name=name)
    assert family.named(name).__name__ != "Usurper"


def test_a_class_may_be_defined_anew(fresh_registry):
    """As in a notebook cell that is run twice."""

    def define():
        class Half(SqrtSchedule, name="half"):
            pass

        return Half

    define()
    newest = define()
    assert NoiseSchedule.named("half") is newest


def test_a_third_party_registers_by_subclassing(fresh_registry):
    class Half(NoiseSchedule, name="half"):
        def __init__(self, num_timesteps=4, *, power=0.5):
            self.power = power
            super().__init__(num_timesteps)

        def _alpha_bar(self, fraction):
            return 1 - 0.9 * fraction**self.power

    assert "half" in NoiseSchedule.names()
    assert NoiseSchedule.build({"name": "half", "power": 2.0}).config() == {
        "name": "half",
        "num_timesteps": 4,
        "power": 2.0,
    }


def test_no_config_can_name_a_class_without_a_name(fresh_registry):
    class Nameless(SqrtSchedule):
        pass

    with pytest.raises(ValueError, match=r"Nameless has no registered name.*Declare it as .class"):
        Nameless().config()
    assert NoiseSchedule.named("sqrt") is SqrtSchedule


def test_families_do_not_share_names(fresh_registry):
    class Animal(Component, ABC, kind="animal"):
        pass

    class Sqrt(Animal, name="sqrt"):
        pass

    assert Animal.names() == ["sqrt"]
    assert isinstance(Animal.build("sqrt"), Sqrt)
    assert NoiseSchedule.named("sqrt") is SqrtSchedule


def test_an_entry_point_is_known_before_it_is_imported(fresh_registry, monkeypatch):
    loaded = []

    def load():
        loaded.append(type("Foreign", (SqrtSchedule,), {}, name="foreign"))

    entry_point(monkeypatch, "foreign", load)
    assert "foreign" in NoiseSchedule.names()
    assert "foreign" not in Denoiser.names()
    assert loaded == []
    schedule = NoiseSchedule.build({"name": "foreign", "num_timesteps": 5})
    assert [type(schedule)] == loaded
    assert NoiseSchedule.build(schedule.config()).config() == schedule.config()
    assert len(loaded) == 1


def test_an_entry_point_that_registers_nothing_is_an_error(fresh_registry, monkeypatch):
    entry_point(monkeypatch, "foreign", lambda: None)
    with pytest.raises(ValueError, match="Unknown schedule name: 'foreign'"):
        NoiseSchedule.build("foreign")


def test_an_entry_point_cannot_take_a_name(fresh_registry, monkeypatch):
    entry_point(monkeypatch, "sqrt", lambda: pytest.fail("loaded"))
    assert NoiseSchedule.named("sqrt") is SqrtSchedule


def test_a_shared_embedding_stays_shared():
    head = built(ItemHead, "tied")
    assert isinstance(head, TiedHead)
    again = ItemHead.build(head.config(), embedding=head.embedding)
    assert again.embedding is head.embedding


def test_a_component_that_would_lose_settings_is_refused():
    with pytest.raises(TypeError, match="must name each of its parameters"):

        class Hidden(NoiseSchedule, name="test-hidden"):
            def __init__(self, a=1.0, **rest):
                super().__init__(**rest)

            def _alpha_bar(self, fraction):
                return 1 - 0.9 * fraction

    assert "test-hidden" not in NoiseSchedule.names()


def test_a_parameter_that_would_hide_a_method_is_refused():
    with pytest.raises(TypeError, match=r"Recurrent: the parameter 'hidden' would hide the method hidden\(\)"):

        class Recurrent(Denoiser, name="test-recurrent"):
            def __init__(self, dim=8, max_length=5, *, hidden=64, seed=0):
                super().__init__(dim, max_length, seed)
                self.hidden = hidden

    assert "test-recurrent" not in Denoiser.names()


def test_a_name_belongs_to_one_module():
    with pytest.raises(ValueError, match=r"'sqrt' is taken by diffusers_rec\.processes\.schedules\.sqrt\.SqrtSchedule"):
        type("SqrtSchedule", (NoiseSchedule,), {"__module__": "elsewhere", "__qualname__": "SqrtSchedule"}, name="sqrt")


def test_a_mistyped_setting_is_told_with_the_nearest():
    with pytest.raises(
        ValueError, match=r"Unknown setting of schedule 'sqrt': 'num_timestep'.*Did you mean 'num_timesteps'"
    ):
        NoiseSchedule.build("sqrt", num_timestep=100)
    with pytest.raises(TypeError, match="built already"):
        NoiseSchedule.build(SqrtSchedule(), num_timesteps=5)


def test_a_class_that_still_declares_its_context_works(fresh_registry, monkeypatch):
    monkeypatch.setattr(deprecation, "_SHOWN", set())
    with pytest.warns(FutureWarning, match=r"`context` of .*Former is deprecated.*use `requires`") as warned:

        class Former(TiedHead, name="former"):
            context = frozenset({"embedding", "scale"})

            def __init__(self, embedding, scale, *, use_bias=True):
                super().__init__(embedding, use_bias=use_bias)
                self.scale = scale

    assert warned[0].filename == __file__
    assert Former.requires == {"embedding", "scale"}
    head = built(ItemHead, "former", scale=2.0)
    assert head.config() == {"name": "former", "use_bias": True}
    assert head.scale == 2.0


def test_the_former_name_of_requires_is_still_read(monkeypatch):
    monkeypatch.setattr(deprecation, "_SHOWN", set())
    with pytest.warns(FutureWarning, match=r"TiedHead\.context is deprecated.*use TiedHead\.requires"):
        assert TiedHead.context == {"embedding"}


def test_a_method_named_context_is_no_declaration(fresh_registry, recwarn):
    class Other(SqrtSchedule, name="other"):
        def context(self):
            return "mine"

    assert Other().context() == "mine"
    assert Other.requires == frozenset()
    assert not recwarn


def test_a_part_that_does_not_fit_stops_the_composition(fresh_registry):
    class Picky(SqrtSchedule, name="picky"):
        def check_fit(self, model):
            if model.max_length > 5:
                raise ValueError(f"The parts do not fit: schedule 'picky' and max_length={model.max_length}.")

    with pytest.raises(ValueError, match="schedule 'picky' and max_length=6"):
        DiffRec(["a", "b"], dim=8, schedule="picky", max_length=6)
    model = DiffRec(["a", "b"], dim=8, schedule="picky", max_length=5)
    model.denoiser.max_length = 7
    with pytest.raises(ValueError, match="schedule 'picky' and max_length=7"):
        model.check_fit()


def test_a_class_in_the_place_of_a_component_is_explained():
    with pytest.raises(TypeError, match="got the class SqrtSchedule; call it"):
        NoiseSchedule.build(SqrtSchedule)


def test_a_method_of_another_signature_is_answered_by_the_contract():
    class Former(TransformerDenoiser):
        def encode(self, history, mask):
            return history

    with pytest.raises(TypeError, match=r"missing 1 .*'mask'.* The contract is Denoiser\.encode\(history\)\."):
        DiffRec(range(9), dim=8, denoiser=Former(8, 9), max_length=9).recommend([[1]], k=1)
