"""The programs that measure generation: their split, the cached roll-out, and a quick run of each."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch

from benchmarks.generation import likelihood, ranking, robustness, samples, steering
from benchmarks.generation.rollout import CachedEncoder
from diffusers_rec import History
from diffusers_rec.guidance import unwrapped
from diffusers_rec.presets import best


def test_a_cached_step_is_the_state_of_the_longer_history():
    model = best(range(20), dim=16, low_pass=0.0).double().eval()
    encoder = unwrapped(model.denoiser).encoder
    generator = torch.Generator().manual_seed(0)
    items = torch.randint(20, (3, 6), generator=generator)
    lengths, later = torch.tensor([6, 2, 4]), torch.randint(20, (3, 2, 3), generator=generator)
    with torch.no_grad():
        torch.nn.init.normal_(encoder.distance_bias, generator=generator)
        cached = CachedEncoder(encoder, History(items, lengths, latents=model.embedding(items)))
        for turn in range(3):
            state = cached.step(model.embedding(later[..., turn]))
            for row in range(3):
                for draw in range(2):
                    whole = torch.cat([items[row, : lengths[row]], later[row, draw, : turn + 1]])
                    context = encoder.cache(model.embedding(whole[None]))
                    expected = encoder.states(context, torch.tensor([[len(whole) - 1]]))[0, 0]
                    assert torch.allclose(state[row, draw], expected, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "rows"), [(likelihood, 24), (samples, 13), (ranking, 16), (robustness, 8), (steering, 17)]
)
def test_a_quick_run_writes_its_table_and_its_marks(program, rows, tmp_path):
    arguments = ["--quick", "--threads", "1", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    program.main(arguments)
    name = f"{program.__name__.rpartition('.')[2]}-synthetic-quick"
    for file in (f"{name}.csv", f"{name}-ratios.csv"):
        with (tmp_path / "out" / file).open(newline="") as opened:
            found = list(csv.DictReader(opened))
        assert len(found) >= (rows if file.endswith("quick.csv") else 4)
        assert all(np.isfinite(float(row["value"])) for row in found if "value" in row)
    assert (tmp_path / "out" / f"{name}.png").stat().st_size > 1000
