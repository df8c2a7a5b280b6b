"""The contracts that this project's own components keep, as checks for anybody's.

A component of one's own is checked in a line, with or without pytest::

    from diffusers_rec.testing import check_schedule


    def test_my_schedule():
        check_schedule(MySchedule)  # or check_schedule(MySchedule, offset=0.1), or a factory

Every check takes a class or a factory and, beside it, constructor settings. It makes small components, supplies what
the pipeline would supply, and raises a :class:`ContractError` that names the clause that was broken, what was expected
and what came. A clause is a plain function in the module of its kind; ``waive`` leaves out those that it names, where a
component does without on purpose::

    check_denoiser(Ablation, waive=["each_step_matters"])
"""

from diffusers_rec.testing.component import check_component
from diffusers_rec.testing.contract import ContractError
from diffusers_rec.testing.denoisers import check_denoiser
from diffusers_rec.testing.embeddings import check_embedding
from diffusers_rec.testing.heads import check_head
from diffusers_rec.testing.memory import check_memory
from diffusers_rec.testing.negatives import check_negatives
from diffusers_rec.testing.noising import check_noising
from diffusers_rec.testing.objectives import check_objective
from diffusers_rec.testing.samplers import check_sampler
from diffusers_rec.testing.schedules import check_schedule
from diffusers_rec.testing.timesteps import check_timesteps

__all__ = [
    "ContractError",
    "check_component",
    "check_denoiser",
    "check_embedding",
    "check_head",
    "check_memory",
    "check_negatives",
    "check_noising",
    "check_objective",
    "check_sampler",
    "check_schedule",
    "check_timesteps",
]
