"""Parts that do not fit one another are refused, for every member of their kinds."""

from __future__ import annotations

import pytest
import torch
from strategies import seeded

from diffusers_rec import DiffRec, GaussianProcess, LossTerm, NoisingStrategy, Process, TimestepSampler
from diffusers_rec.processes.source import Source


def own(family):
    """Names of the library's own members."""
    return [name for name in family.names() if family.named(name).__module__.startswith("diffusers_rec.")]


CENTRED = [name for name in own(Source) if name != "zero"]
WITHOUT_NOISE = [name for name in own(Process) if name not in ("gaussian", "weibull")]
NOT_GAUSSIAN = [name for name in own(Process) if not issubclass(Process.named(name), GaussianProcess)]
WITH_PROCESS = [name for name in own(LossTerm) if LossTerm.named(name).process is not None]


def build(**parts):
    return DiffRec(range(9), **{"dim": 8, "max_length": 6, "denoiser": "state-mlp", "timesteps": "uniform", **parts})


@pytest.mark.parametrize("source", CENTRED)
@pytest.mark.parametrize("process", WITHOUT_NOISE)
def test_only_added_noise_has_a_centre(process, source):
    assert build(process=process).process.registered_name == process
    with pytest.raises(ValueError, match=rf"the source '{source}' is the centre .* the process '{process}' adds none"):
        build(process=process, source=source)


@pytest.mark.parametrize("source", CENTRED)
@pytest.mark.parametrize("process", [name for name in own(Process) if name not in WITHOUT_NOISE])
def test_added_noise_may_have_a_centre(process, source):
    assert build(process=process, source=source).source.registered_name == source


@pytest.mark.parametrize("process", NOT_GAUSSIAN)
def test_the_exact_posterior_is_that_of_gaussian_noise(process):
    with pytest.raises(ValueError, match=f"Gaussian evidence, which latents of the process '{process}' do not give"):
        build(process=process, denoiser="posterior")


@pytest.mark.parametrize("process", own(Process))
@pytest.mark.parametrize("term", WITH_PROCESS)
def test_a_term_fits_the_process_whose_draws_it_reads(term, process):
    parts = {"process": process, "objective": {"name": "weighted", "terms": [term]}}
    if process == LossTerm.named(term).process:
        assert build(**parts).objective.terms[0].registered_name == term
        return
    with pytest.raises(ValueError, match=rf"the term '{term}' reads draws .* but the process is '{process}'"):
        build(**parts)


def test_the_bound_and_the_score_entropy_have_a_process():
    assert sorted(WITH_PROCESS) == ["bound", "score-entropy"]


@pytest.mark.parametrize("noising", [*own(NoisingStrategy), {"name": "whole-windows", "gaps": "all"}], ids=str)
def test_the_bound_counts_only_what_the_process_blanks(noising):
    strategy = NoisingStrategy.build(noising)
    queries = strategy.training(torch.arange(1, 6)[None], 5, seeded(0))
    assert (queries.known is not None) == strategy.draws_gaps
    parts = {"process": "mask", "noising": noising, "objective": {"name": "weighted", "terms": ["bound"]}}
    parts["denoiser"] = "autoregressive" if strategy.noises_history else "state-mlp"
    if not strategy.draws_gaps:
        assert build(**parts).noising.config() == strategy.config()
        return
    with pytest.raises(ValueError, match=r"draws positions that keep their items.* 'gaps': 'all'"):
        build(**parts)


@pytest.mark.parametrize("timesteps", [*own(TimestepSampler), {"name": "uniform", "start_share": 0.5}], ids=str)
def test_the_bound_is_of_steps_drawn_uniformly(timesteps):
    parts = {"process": "mask", "objective": {"name": "weighted", "terms": ["bound"]}, "timesteps": timesteps}
    if timesteps == "uniform":
        assert build(**parts).timesteps.registered_name == "uniform"
        return
    with pytest.raises(ValueError, match=r"steps that are drawn uniformly, but .* Use timesteps='uniform'"):
        build(**parts)


@pytest.mark.parametrize("source", CENTRED)
def test_copies_of_the_history_are_noised_about_zero(source):
    with pytest.raises(ValueError, match=rf"noises copies .* about zero, but the source '{source}' centres"):
        build(noising="every-item", denoiser="autoregressive", source=source)


@pytest.mark.parametrize("max_length", [5, 6, 7])
def test_a_learned_source_takes_every_position(max_length):
    source = {"name": "encoder", "max_length": max_length}
    if max_length >= 6:
        assert build(source=source).source.max_length == max_length
        return
    with pytest.raises(ValueError, match="the source takes 5 positions, the model has max_length=6"):
        build(source=source)


def test_rotated_items_have_an_even_width():
    with pytest.raises(ValueError, match=r"dim must be even .* got 9"):
        build(dim=9, denoiser={"name": "rotary-state", "encoder": {"name": "single-layer", "num_heads": 1}})
