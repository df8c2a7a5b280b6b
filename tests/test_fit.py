"""Parts that do not fit one another are refused, for every member of their kinds."""

from __future__ import annotations

import pytest

from diffusers_rec import DiffRec, GaussianProcess, Process
from diffusers_rec.processes.source import Source


def own(family):
    """Names of the library's own members."""
    return [name for name in family.names() if family.named(name).__module__.startswith("diffusers_rec.")]


CENTRED = [name for name in own(Source) if name != "zero"]
WITHOUT_NOISE = [name for name in own(Process) if name not in ("gaussian", "weibull")]
NOT_GAUSSIAN = [name for name in own(Process) if not issubclass(Process.named(name), GaussianProcess)]


def build(**parts):
    return DiffRec(range(9), **{"dim": 8, "max_length": 6, "denoiser": "state-mlp", **parts})


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
