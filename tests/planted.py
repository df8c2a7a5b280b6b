"""What a third party may write and get wrong: each function plants one mistake in a component that is else right."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from diffusers_rec.core.randomness import isolated_rng, randn
from diffusers_rec.denoisers import Denoiser
from diffusers_rec.items.embeddings import TableEmbedding
from diffusers_rec.items.heads import LinearHead, TiedHead
from diffusers_rec.items.negatives import NegativeSample, UniformNegatives
from diffusers_rec.nn.attention import step_embedding
from diffusers_rec.objectives import SimplifiedObjective, Terms
from diffusers_rec.processes.noising import Questions, TargetOnly
from diffusers_rec.processes.schedules import NoiseSchedule, SqrtSchedule
from diffusers_rec.processes.timesteps import ImportanceTimestepSampler, UniformTimestepSampler
from diffusers_rec.recommenders.memory import MemoryPrediction, TransitionMemory
from diffusers_rec.samplers import DDPMSampler, OneStepSampler, Sampler


class Blend(Denoiser):
    """A denoiser that keeps its contract: a weighted mean of what is visible, the noise, and the step."""

    def __init__(self, dim=8, max_length=9, *, seed=0):
        super().__init__(dim, max_length, seed)
        with isolated_rng(seed):
            self.place = nn.Parameter(torch.randn(max_length))
            self.mix = nn.Linear(4 * dim, dim)

    def encode(self, history, mask):
        return history

    def seen(self, history, visible):
        return torch.arange(history.shape[1]) < visible[..., None]

    def step(self, timesteps):
        return step_embedding(timesteps, self.dim)

    def forward(self, xn, timesteps, visible, context, count=None):
        place = self.place[: context.shape[1]]
        state = (self.seen(context, visible) * place) @ context
        count = torch.full_like(visible, xn.shape[2]) if count is None else count
        real = (torch.arange(xn.shape[2]) < count[..., None])[..., None]
        together = torch.where(real, xn, 0).sum(2, keepdim=True)
        step = self.step(timesteps if timesteps.ndim == 3 else timesteps[..., None]).to(xn.dtype)
        parts = xn, together.expand_as(xn), state[:, :, None].expand_as(xn), step.expand_as(xn)
        return torch.tanh(self.mix(torch.cat(parts, dim=-1)))


def a_denoiser_that_sees_padding():
    class Planted(Blend, name="planted"):
        def seen(self, history, visible):
            return torch.ones(*visible.shape, history.shape[1], dtype=torch.bool)

    return Planted


def a_denoiser_that_sees_one_item_too_many():
    class Planted(Blend, name="planted"):
        def seen(self, history, visible):
            return super().seen(history, visible + 1)

        def encode(self, history, mask):
            return history * mask[..., None]

    return Planted


def a_denoiser_that_counts_unreal_positions():
    class Planted(Blend, name="planted"):
        def forward(self, xn, timesteps, visible, context, count=None):
            return super().forward(xn, timesteps, visible, context)

    return Planted


def a_denoiser_that_looks_at_its_batch():
    class Planted(Blend, name="planted"):
        def forward(self, xn, *asked, **more):
            answer = super().forward(xn, *asked, **more)
            return answer - answer.mean(0, keepdim=True)

    return Planted


def a_denoiser_whose_steps_are_counted_from_0():
    class Planted(Blend, name="planted"):
        def __init__(self, dim=8, max_length=9, *, num_timesteps=30, seed=0):
            super().__init__(dim, max_length, seed=seed)
            self.num_timesteps = num_timesteps
            with isolated_rng(seed + 1):
                self.table = nn.Embedding(num_timesteps, dim)

        def step(self, timesteps):
            return self.table(timesteps)

    return Planted


def a_denoiser_that_takes_the_last_step_for_the_one_before():
    class Planted(Blend, name="planted"):
        def step(self, timesteps):
            return super().step(timesteps.clamp(max=29))

    return Planted


def a_denoiser_whose_context_remembers():
    class Planted(Blend, name="planted"):
        def forward(self, xn, timesteps, visible, context, count=None):
            answer = super().forward(xn, timesteps, visible, context[0], count)
            context[0] = 0.9 * context[0]
            return answer

        def encode(self, history, mask):
            return [history]

    return Planted


def a_denoiser_with_dropout_at_serving_time():
    class Planted(Blend, name="planted"):
        def forward(self, *asked, **more):
            return F.dropout(super().forward(*asked, **more), 0.1)

    return Planted


def a_denoiser_in_single_precision():
    class Planted(Blend, name="planted"):
        def forward(self, *asked, **more):
            return super().forward(*asked, **more).float()

    return Planted


def a_denoiser_with_a_weight_that_does_nothing():
    class Planted(Blend, name="planted"):
        def __init__(self, dim=8, max_length=9, *, seed=0):
            super().__init__(dim, max_length, seed=seed)
            self.idle = nn.Parameter(torch.ones(dim))

    return Planted


def a_denoiser_drawn_from_the_global_state():
    class Planted(Blend, name="planted"):
        def __init__(self, dim=8, max_length=9, *, seed=0):
            super().__init__(dim, max_length, seed=seed)
            self.mix = nn.Linear(4 * dim, dim)

    return Planted


def a_denoiser_drawn_afresh():
    class Planted(Blend, name="planted"):
        def __init__(self, dim=8, max_length=9, *, seed=0):
            generator = torch.Generator()
            generator.seed()
            super().__init__(dim, max_length, seed=int(torch.randint(2**40, (), generator=generator)))
            self.seed = seed

    return Planted


def a_denoiser_whose_seed_does_nothing():
    class Planted(Blend, name="planted"):
        def __init__(self, dim=8, max_length=9, *, seed=0):
            super().__init__(dim, max_length, seed=0)
            self.seed = seed

    return Planted


def a_denoiser_with_a_weight_outside_its_state():
    class Planted(Blend, name="planted"):
        def __init__(self, dim=8, max_length=9, *, seed=0):
            super().__init__(dim, max_length, seed=seed)
            weight = self.place
            del self.place
            self._hidden = (weight,)

        @property
        def place(self):
            return self._hidden[0].to(self.mix.weight.dtype)

        def parameters(self, recurse=True):
            yield from (*super().parameters(recurse), *self._hidden)

    return Planted


def a_schedule_that_rises():
    class Planted(NoiseSchedule, name="planted"):
        def _alpha_bar(self, fraction):
            return 0.5 + 0.4 * torch.sin(6 * fraction)

    return Planted


def a_schedule_that_rises_unchecked():
    class Planted(SqrtSchedule, name="planted"):
        def _alpha_bar(self, fraction):
            return 0.5 + 0.4 * torch.sin(6 * fraction)

        def _check_table(self, table):
            pass

    return Planted


def a_schedule_off_by_one():
    class Planted(SqrtSchedule, name="planted"):
        def add_noise(self, x0, noise, timesteps):
            return super().add_noise(x0, noise, timesteps - 1)

    return Planted


def a_schedule_with_the_posterior_as_printed():
    """The square root over too much, as in Eq. 3 of the paper."""

    class Planted(SqrtSchedule, name="planted"):
        def __init__(self, num_timesteps=1000, *, log_snr_shift=0.0):
            super().__init__(num_timesteps, log_snr_shift=log_snr_shift)
            left = 1 - torch.cat([self.alpha_bar[:1], self.alpha_bar[:-1]])
            noise = (1 - self.alpha_bar).clamp(min=1e-12)
            self._tables["posterior_xn"] = (self.alpha * left).sqrt() / noise

    return Planted


def a_schedule_whose_shift_is_halved():
    class Planted(SqrtSchedule, name="planted"):
        def __init__(self, num_timesteps=1000, *, log_snr_shift=0.0):
            super().__init__(num_timesteps, log_snr_shift=log_snr_shift / 2)
            self.__dict__["log_snr_shift"] = log_snr_shift

    return Planted


def a_setting_that_is_kept_otherwise():
    class Planted(NoiseSchedule, name="planted"):
        def __init__(self, num_timesteps=30, *, power=0.5):
            self.power = 2 * power
            super().__init__(num_timesteps)

        def _alpha_bar(self, fraction):
            return 1 - 0.9 * fraction ** (self.power / 2)

    return Planted


def a_setting_that_is_not_kept():
    class Planted(NoiseSchedule, name="planted"):
        def __init__(self, num_timesteps=30, *, power=0.5):
            self._power = power
            super().__init__(num_timesteps)

        def _alpha_bar(self, fraction):
            return 1 - 0.9 * fraction**self._power

    return Planted


def a_setting_that_the_config_leaves_out():
    class Planted(SqrtSchedule, name="planted"):
        def config(self):
            return {"name": "planted", "num_timesteps": self.num_timesteps}

    return Planted


def a_component_without_a_name():
    class Planted(SqrtSchedule):
        pass

    return Planted


def steps_from_0():
    class Planted(UniformTimestepSampler, name="planted"):
        def sample(self, shape, generator, device=None):
            steps, weights = super().sample(shape, generator, device)
            return steps - 1, weights

    return Planted


def steps_that_never_reach_the_last():
    class Planted(UniformTimestepSampler, name="planted"):
        def sample(self, shape, generator, device=None):
            steps, weights = super().sample(shape, generator, device)
            return steps.clamp(max=max(1, self.num_timesteps - 1)), weights

    return Planted


def weights_that_forget_the_probabilities():
    class Planted(ImportanceTimestepSampler, name="planted"):
        def sample(self, shape, generator, device=None):
            steps, weights = super().sample(shape, generator, device)
            return steps, torch.ones_like(weights)

    return Planted


def steps_from_numpys_global_state():
    class Planted(UniformTimestepSampler, name="planted"):
        def sample(self, shape, generator, device=None):
            steps, weights = super().sample(shape, generator, device)
            return steps + 0 * np.random.randint(2), weights  # noqa: NPY002

    return Planted


def steps_of_one_seed():
    class Planted(UniformTimestepSampler, name="planted"):
        def sample(self, shape, generator, device=None):
            return super().sample(shape, torch.Generator().manual_seed(0), device)

    return Planted


def a_sampler_state_that_is_no_copy():
    class Planted(ImportanceTimestepSampler, name="planted"):
        def state_dict(self):
            return {"losses": self._losses, "seen": self._seen}

    return Planted


def a_sampler_that_ignores_its_generator():
    class Planted(Sampler, name="planted"):
        def sample(self, denoise, schedule, noise, generator):
            x = denoise(noise, torch.full(noise.shape[:2], schedule.num_timesteps))
            return x + 0.1 * torch.randn_like(x)

    return Planted


def a_sampler_with_a_generator_of_its_own():
    class Planted(DDPMSampler, name="planted"):
        def sample(self, denoise, schedule, noise, generator):
            return super().sample(denoise, schedule, noise, torch.Generator().manual_seed(0))

    return Planted


def a_sampler_of_one_stream_for_all_draws():
    class Planted(Sampler, name="planted"):
        def sample(self, denoise, schedule, noise, generator):
            first = generator if isinstance(generator, torch.Generator) else generator[0]
            x = denoise(noise, torch.full(noise.shape[:2], schedule.num_timesteps))
            return x + 0.1 * randn(x.shape, first, device=x.device, dtype=x.dtype)

    return Planted


def a_sampler_that_starts_a_step_early():
    class Planted(OneStepSampler, name="planted"):
        def sample(self, denoise, schedule, noise, generator):
            return denoise(noise, torch.full(noise.shape[:2], schedule.num_timesteps - 1))

    return Planted


def a_sampler_of_too_little_noise():
    class Planted(DDPMSampler, name="planted"):
        def sample(self, denoise, schedule, noise, generator):
            x = noise
            for n in range(schedule.num_timesteps, 1, -1):
                now = torch.full(noise.shape[:2], n)
                x, _ = schedule.posterior(denoise(x, now), x, now)
            return denoise(x, torch.ones(noise.shape[:2], dtype=torch.int64))

    return Planted


def a_sampler_that_writes_to_its_noise():
    class Planted(OneStepSampler, name="planted"):
        def sample(self, denoise, schedule, noise, generator):
            sample = super().sample(denoise, schedule, noise, generator)
            noise.mul_(0.5)
            return sample

    return Planted


def a_head_whose_loss_forgets_the_bias():
    class Planted(LinearHead, name="planted"):
        def loss(self, latent, target, negatives=None):
            scores = F.linear(latent, self.weight)
            return F.cross_entropy(scores.flatten(0, -2), target.flatten())

    return Planted


def a_head_whose_logits_are_not_its_keys():
    class Planted(LinearHead, name="planted"):
        def logits(self, latent):
            return super().logits(latent) / 2

    return Planted


def a_head_whose_items_have_places():
    class Planted(LinearHead, name="planted"):
        def bias(self, items=None):
            place = torch.arange(self.num_items)
            return super().bias(items) + (place if items is None else place[items])

    return Planted


def a_head_that_owns_a_shared_embedding():
    class Planted(TiedHead, name="planted"):
        def __init__(self, embedding, *, use_bias=True):
            super().__init__(embedding, use_bias=use_bias)
            self.table = embedding

    return Planted


def an_embedding_that_looks_at_its_company():
    class Planted(TableEmbedding, name="planted"):
        def forward(self, items):
            latents = super().forward(items)
            return latents - latents.flatten(0, -2).mean(0) if items.numel() else latents

    return Planted


def a_strategy_that_noises_behind_the_target():
    class Planted(TargetOnly, name="planted"):
        def questions(self, targets, width):
            found = super().questions(targets, width)
            return Questions(found.visible + 1, found.positions + 1, found.count, found.answer)

    return Planted


def distances_that_are_weighted():
    class Planted(SimplifiedObjective, name="planted"):
        def __call__(self, x0, predicted, weights, from_start, items, head, negatives=None):
            terms = super().__call__(x0, predicted, weights, from_start, items, head, negatives)
            return Terms(terms.total, terms.named, weights * terms.per_latent)

    return Planted


def an_objective_that_forgets_the_weights():
    class Planted(SimplifiedObjective, name="planted"):
        def __call__(self, x0, predicted, weights, from_start, items, head, negatives=None):
            return super().__call__(x0, predicted, torch.ones_like(weights), from_start, items, head, negatives)

    return Planted


def negatives_that_expect_too_many():
    class Planted(UniformNegatives, name="planted"):
        def draw(self, targets, num_items, generator):
            sample = super().draw(targets, num_items, generator)
            return NegativeSample(sample.items, sample.log_expected + 0.2)

    return Planted


def negatives_from_pythons_global_state():
    class Planted(UniformNegatives, name="planted"):
        def draw(self, targets, num_items, generator):
            return super().draw(targets, num_items, torch.Generator().manual_seed(random.randrange(2**31)))

    return Planted


def a_memory_that_reads_padding():
    class Planted(TransitionMemory, name="planted"):
        def predict(self, history):
            return super().predict(replace(history, lengths=torch.full_like(history.lengths, history.items.shape[1])))

    return Planted


def a_memory_of_too_much_mass():
    class Planted(TransitionMemory, name="planted"):
        def predict(self, history):
            found = super().predict(history)
            return MemoryPrediction(found.items, 4 * found.mass, found.share)

    return Planted


PLANTED = {
    a_denoiser_that_sees_padding: "padding_is_never_seen",
    a_denoiser_that_sees_one_item_too_many: "a_question_sees_its_visible_history_and_its_own_noise_alone",
    a_denoiser_that_counts_unreal_positions: "padding_is_never_seen",
    a_denoiser_that_looks_at_its_batch: "a_row_answers_the_same_alone_and_in_any_batch",
    a_denoiser_whose_steps_are_counted_from_0: "every_step_from_1_to_n_is_known",
    a_denoiser_that_takes_the_last_step_for_the_one_before: "each_step_matters",
    a_denoiser_whose_context_remembers: "one_encoding_serves_every_step_and_draw",
    a_denoiser_with_dropout_at_serving_time: "leaves_the_global_random_state_alone",
    a_denoiser_in_single_precision: "the_answer_is_like_xn",
    a_denoiser_with_a_weight_that_does_nothing: "every_weight_learns",
    a_denoiser_drawn_from_the_global_state: "leaves_the_global_random_state_alone",
    a_denoiser_drawn_afresh: "the_same_seed_gives_the_same_bits",
    a_denoiser_whose_seed_does_nothing: "another_seed_gives_other_weights",
    a_denoiser_with_a_weight_outside_its_state: "its_state_goes_out_and_in",
    a_schedule_that_rises: "can_be_made",
    a_schedule_that_rises_unchecked: "alpha_bar_falls_strictly_from_one",
    a_schedule_off_by_one: "add_noise_is_equation_2",
    a_schedule_with_the_posterior_as_printed: "the_posterior_is_the_product_of_two_gaussians",
    a_schedule_whose_shift_is_halved: "log_snr_shift_shifts_the_log_snr_by_exactly_that",
    a_setting_that_is_kept_otherwise: "survives_its_config",
    a_setting_that_is_not_kept: "keeps_its_settings",
    a_setting_that_the_config_leaves_out: "survives_its_config",
    a_component_without_a_name: "has_a_registered_name",
    steps_from_0: "steps_are_drawn_from_1_to_n",
    steps_that_never_reach_the_last: "steps_come_as_often_as_their_probability_says",
    weights_that_forget_the_probabilities: "weights_undo_the_probabilities",
    steps_from_numpys_global_state: "leaves_the_global_random_state_alone",
    steps_of_one_seed: "the_same_generator_gives_the_same_bits_in_the_shape_asked",
    a_sampler_state_that_is_no_copy: "its_learned_state_goes_out_and_in",
    a_sampler_that_ignores_its_generator: "leaves_the_global_random_state_alone",
    a_sampler_with_a_generator_of_its_own: "with_a_generator_a_draw_neither_batch_nor_other_draws_matter",
    a_sampler_of_one_stream_for_all_draws: "with_a_generator_a_draw_neither_batch_nor_other_draws_matter",
    a_sampler_that_starts_a_step_early: "steps_go_down_from_n",
    a_sampler_of_too_little_noise: "a_chain_over_every_step_lands_on_gaussian_data",
    a_sampler_that_writes_to_its_noise: "the_noise_is_not_written_to",
    a_head_whose_loss_forgets_the_bias: "the_loss_is_minus_the_mean_log_softmax_of_the_logits",
    a_head_whose_logits_are_not_its_keys: "logits_are_an_inner_product",
    a_head_whose_items_have_places: "permuting_item_ids_permutes_the_scores_and_nothing_else",
    a_head_that_owns_a_shared_embedding: "a_shared_embedding_is_saved_by_its_owner_alone",
    an_embedding_that_looks_at_its_company: "an_item_gets_its_row",
    a_strategy_that_noises_behind_the_target: "seen_and_noised_positions_tile_the_sequence_up_to_the_target",
    distances_that_are_weighted: "a_latent_has_the_same_distance_in_any_company",
    an_objective_that_forgets_the_weights: "weights_weigh_the_distances",
    negatives_that_expect_too_many: "each_item_comes_as_often_as_expected",
    negatives_from_pythons_global_state: "leaves_the_global_random_state_alone",
    a_memory_that_reads_padding: "an_answer_depends_on_its_history_alone",
    a_memory_of_too_much_mass: "mass_is_a_share_on_known_items",
}
"""Which clause each mistake breaks first."""
