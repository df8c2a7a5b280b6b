"""Mistakes that a third party may make: each function makes a component with one of them, correct in all else."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from diffusers_rec.core.randomness import isolated_rng, randn
from diffusers_rec.denoisers import Denoiser
from diffusers_rec.guidance import Guide
from diffusers_rec.items.embeddings import TableEmbedding
from diffusers_rec.items.heads import LinearHead, TiedHead
from diffusers_rec.items.negatives import NegativeSample, UniformNegatives
from diffusers_rec.nn.step_embedding import step_embedding
from diffusers_rec.objectives import CosineTerm, CrossEntropyTerm, LossTerms, Objective, SimplifiedObjective
from diffusers_rec.processes.noising import Queries, TargetOnly
from diffusers_rec.processes.process import GaussianProcess
from diffusers_rec.processes.schedules import NoiseSchedule, RectifiedSchedule, SqrtSchedule
from diffusers_rec.processes.source import Source
from diffusers_rec.processes.timesteps import ImportanceTimestepSampler, UniformTimestepSampler
from diffusers_rec.recommenders.memory import MemoryPrediction, TransitionMemory
from diffusers_rec.samplers import DDPMSampler, OneStepSampler

BROKEN = {}
"""Each broken component and the clause that it breaks first."""


def breaks(clause):
    """Enter a function that makes a broken component."""

    def enter(make):
        BROKEN[make] = clause
        return make

    return enter


class Blend(Denoiser):
    """A correct denoiser: a weighted mean of the visible items, the noise, and the step."""

    def __init__(self, dim=8, max_length=9, *, seed=0):
        super().__init__(dim, max_length, seed)
        with isolated_rng(seed):
            self.place = nn.Parameter(torch.randn(max_length))
            self.mix = nn.Linear(4 * dim, dim)

    def encode(self, history):
        return history

    def condition(self, context, queries, *, null=False):
        queries = queries.blind(null)
        latents = context.latent()
        state = (self.seen(context, queries.visible) * self.place[: latents.shape[1]]) @ latents
        return state[:, :, None], self.real(queries)[..., None]

    def seen(self, history, visible):
        return torch.arange(history.items.shape[1]) < visible[..., None]

    def real(self, queries):
        return queries.mask

    def step(self, timesteps):
        return step_embedding(timesteps, self.dim)

    def forward(self, xn, timesteps, condition):
        state, real = condition
        together = torch.where(real, xn, 0).sum(2, keepdim=True)
        step = self.step(timesteps if timesteps.ndim == 3 else timesteps[..., None]).to(xn.dtype)
        parts = xn, together.expand_as(xn), state.expand_as(xn), step.expand_as(xn)
        return torch.tanh(self.mix(torch.cat(parts, dim=-1)))


@breaks("padding_is_ignored")
def denoiser_that_sees_padding():
    class Broken(Blend, name="broken"):
        def seen(self, history, visible):
            return torch.ones(*visible.shape, history.items.shape[1], dtype=torch.bool)

    return Broken


@breaks("only_visible_items_and_own_positions_are_seen")
def denoiser_that_sees_one_item_too_many():
    class Broken(Blend, name="broken"):
        def seen(self, history, visible):
            return super().seen(history, visible + 1)

        def encode(self, history):
            return history.with_latents(history.latent() * history.mask[..., None])

    return Broken


@breaks("nothing_behind_the_visible_items_is_read")
def denoiser_that_reads_the_lengths():
    class Broken(Blend, name="broken"):
        def encode(self, history):
            return history.with_latents(history.latent() * (1 + history.lengths[:, None, None]))

    return Broken


@breaks("only_copies_of_visible_items_are_read")
def denoiser_that_reads_the_copy_of_the_target():
    class Broken(Blend, name="broken"):
        reads_copies = True

        def encode(self, history):
            following = 0 if history.copies is None else history.copies.roll(-1, 1)
            return history.with_latents(history.latent() + following)

    return Broken


@breaks("only_copies_of_visible_items_are_read")
def denoiser_that_reads_copies_undeclared():
    class Broken(Blend, name="broken"):
        def encode(self, history):
            copies, steps = history.noised()
            return history.with_latents(history.latent() + copies * (steps > 0)[..., None])

    return Broken


@breaks("padding_is_ignored")
def denoiser_that_counts_padded_positions():
    class Broken(Blend, name="broken"):
        def real(self, queries):
            return torch.ones_like(queries.mask)

    return Broken


@breaks("rows_are_independent")
def denoiser_that_depends_on_its_batch():
    class Broken(Blend, name="broken"):
        def forward(self, xn, timesteps, condition):
            prediction = super().forward(xn, timesteps, condition)
            return prediction - prediction.mean(0, keepdim=True)

    return Broken


@breaks("every_step_from_1_to_n_is_accepted")
def denoiser_that_counts_steps_from_0():
    class Broken(Blend, name="broken"):
        def __init__(self, dim=8, max_length=9, *, num_timesteps=30, seed=0):
            super().__init__(dim, max_length, seed=seed)
            self.num_timesteps = num_timesteps
            with isolated_rng(seed + 1):
                self.table = nn.Embedding(num_timesteps, dim)

        def step(self, timesteps):
            return self.table(timesteps)

    return Broken


@breaks("each_step_matters")
def denoiser_that_mistakes_the_last_step_for_the_one_before():
    class Broken(Blend, name="broken"):
        def step(self, timesteps):
            return super().step(timesteps.clamp(max=29))

    return Broken


@breaks("one_condition_serves_every_step")
def denoiser_that_writes_to_its_condition():
    class Broken(Blend, name="broken"):
        def forward(self, xn, timesteps, condition):
            prediction = super().forward(xn, timesteps, condition)
            condition[0] = 0.9 * condition[0]
            return prediction

        def condition(self, context, queries, *, null=False):
            return list(super().condition(context, queries, null=null))

    return Broken


@breaks("one_encoding_serves_every_condition")
def denoiser_that_writes_to_its_context():
    class Broken(Blend, name="broken"):
        def encode(self, history):
            return [history]

        def condition(self, context, queries, *, null=False):
            condition = super().condition(context[0], queries, null=null)
            context[0] = context[0].with_latents(0.9 * context[0].latent())
            return condition

    return Broken


@breaks("conditions_carry_gradients")
def denoiser_that_caches_its_condition():
    class Broken(Blend, name="broken"):
        def encode(self, history):
            return history, {}

        def condition(self, context, queries, *, null=False):
            history, cache = context
            key = (str(queries), str(null))
            if key not in cache:
                cache[key] = super().condition(history, queries, null=null)
            return cache[key]

    return Broken


@breaks("one_condition_serves_every_draw")
def denoiser_of_one_condition_a_draw():
    class Broken(Blend, name="broken"):
        def forward(self, xn, timesteps, condition):
            state, real = condition
            return super().forward(xn, timesteps, (state.reshape(len(xn), xn.shape[1], 1, -1), real))

    return Broken


@breaks("null_hides_the_history")
def denoiser_that_ignores_null():
    class Broken(Blend, name="broken"):
        def condition(self, context, queries, *, null=False):
            return super().condition(context, queries)

    return Broken


@breaks("null_mask_hides_the_history_of_its_queries")
def denoiser_whose_null_hides_all():
    class Broken(Blend, name="broken"):
        def condition(self, context, queries, *, null=False):
            return super().condition(context, queries, null=bool(torch.as_tensor(null).any()))

    return Broken


@breaks("null_hides_the_history")
def denoiser_whose_null_differs_from_an_empty_history():
    class Broken(Blend, name="broken"):
        def condition(self, context, queries, *, null=False):
            state, real = super().condition(context, queries, null=null)
            return state + 0.1 * torch.as_tensor(null).double().to(state).reshape(-1)[0], real

    return Broken


@breaks("prediction_is_declared")
def denoiser_of_an_unknown_prediction():
    class Broken(Blend, name="broken"):
        prediction = "score"

    return Broken


@breaks("leaves_the_global_random_state_alone")
def denoiser_with_dropout_when_serving():
    class Broken(Blend, name="broken"):
        def forward(self, xn, timesteps, condition):
            return F.dropout(super().forward(xn, timesteps, condition), 0.1)

    return Broken


@breaks("prediction_is_like_xn")
def denoiser_in_single_precision():
    class Broken(Blend, name="broken"):
        def forward(self, xn, timesteps, condition):
            return super().forward(xn, timesteps, condition).float()

    return Broken


@breaks("every_weight_learns")
def denoiser_with_an_unused_weight():
    class Broken(Blend, name="broken"):
        def __init__(self, dim=8, max_length=9, *, seed=0):
            super().__init__(dim, max_length, seed=seed)
            self.idle = nn.Parameter(torch.ones(dim))

    return Broken


@breaks("leaves_the_global_random_state_alone")
def denoiser_drawn_from_the_global_state():
    class Broken(Blend, name="broken"):
        def __init__(self, dim=8, max_length=9, *, seed=0):
            super().__init__(dim, max_length, seed=seed)
            self.mix = nn.Linear(4 * dim, dim)

    return Broken


@breaks("the_same_seed_gives_the_same_bits")
def denoiser_drawn_from_no_seed():
    class Broken(Blend, name="broken"):
        def __init__(self, dim=8, max_length=9, *, seed=0):
            generator = torch.Generator()
            generator.seed()
            super().__init__(dim, max_length, seed=int(torch.randint(2**40, (), generator=generator)))
            self.seed = seed

    return Broken


@breaks("another_seed_gives_other_weights")
def denoiser_that_ignores_its_seed():
    class Broken(Blend, name="broken"):
        def __init__(self, dim=8, max_length=9, *, seed=0):
            super().__init__(dim, max_length, seed=0)
            self.seed = seed

    return Broken


@breaks("state_dict_round_trips")
def denoiser_with_a_weight_outside_its_state():
    class Broken(Blend, name="broken"):
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

    return Broken


@breaks("rows_are_independent")
def guide_that_repeats_its_last_condition():
    class Broken(Guide, name="broken"):
        def forward(self, xn, timesteps, condition):
            self.last = getattr(self, "last", condition)
            return self.base(xn, timesteps, self.last if self.last[0].shape == condition[0].shape else condition)

    return Broken


@breaks("can_be_constructed")
def schedule_that_rises():
    class Broken(NoiseSchedule, name="broken"):
        def _alpha_bar(self, fraction):
            return 0.5 + 0.4 * torch.sin(6 * fraction)

    return Broken


@breaks("the_signal_falls_strictly_from_one")
def schedule_that_rises_unchecked():
    class Broken(SqrtSchedule, name="broken"):
        def _alpha_bar(self, fraction):
            return 0.5 + 0.4 * torch.sin(6 * fraction)

        def _check_table(self, alpha_bar):
            pass

    return Broken


@breaks("add_noise_is_equation_2")
def schedule_off_by_one():
    class Broken(SqrtSchedule, name="broken"):
        def add_noise(self, x0, noise, timesteps):
            return super().add_noise(x0, noise, timesteps - 1)

    return Broken


@breaks("the_posterior_is_the_product_of_two_gaussians")
def schedule_with_the_posterior_as_printed():
    """The square root over too much, as in Eq. 3 of the paper."""

    class Broken(SqrtSchedule, name="broken"):
        def _build(self):
            tables = super()._build()
            left = 1 - torch.cat([tables["alpha_bar"][:1], tables["alpha_bar"][:-1]])
            noise = (1 - tables["alpha_bar"]).clamp(min=1e-12)
            return {**tables, "posterior_xn": (tables["alpha"] * left).sqrt() / noise}

    return Broken


@breaks("a_step_to_itself_keeps_the_latent")
def schedule_with_variance_in_every_step():
    class Broken(SqrtSchedule, name="broken"):
        def posterior(self, x0, xn, timesteps, previous=None):
            mean, variance = super().posterior(x0, xn, timesteps, previous)
            return mean, variance if previous is None else variance.clamp(min=1e-12) * (previous > 0)[..., None]

    return Broken


@breaks("x0_noise_and_velocity_convert_into_one_another")
def schedule_with_another_velocity():
    class Broken(RectifiedSchedule, name="broken"):
        def velocity_from_x0(self, x0, xn, timesteps):
            return self.noise_from_x0(x0, xn, timesteps) - 2 * x0

    return Broken


@breaks("log_snr_shift_shifts_the_log_snr_by_exactly_that")
def schedule_with_half_its_shift():
    class Broken(SqrtSchedule, name="broken"):
        def __init__(self, num_timesteps=1000, *, log_snr_shift=0.0):
            super().__init__(num_timesteps, log_snr_shift=log_snr_shift / 2)
            self.__dict__["log_snr_shift"] = log_snr_shift

    return Broken


@breaks("config_round_trips")
def setting_stored_with_another_value():
    class Broken(NoiseSchedule, name="broken"):
        def __init__(self, num_timesteps=30, *, power=0.5):
            self.power = 2 * power
            super().__init__(num_timesteps)

        def _alpha_bar(self, fraction):
            return 1 - 0.9 * fraction ** (self.power / 2)

    return Broken


@breaks("keeps_its_settings")
def setting_that_is_not_stored():
    class Broken(NoiseSchedule, name="broken"):
        def __init__(self, num_timesteps=30, *, power=0.5):
            self._power = power
            super().__init__(num_timesteps)

        def _alpha_bar(self, fraction):
            return 1 - 0.9 * fraction**self._power

    return Broken


@breaks("config_round_trips")
def setting_missing_from_the_config():
    class Broken(SqrtSchedule, name="broken"):
        def config(self):
            return {"name": "broken", "num_timesteps": self.num_timesteps}

    return Broken


@breaks("has_a_registered_name")
def component_without_a_name():
    class Broken(SqrtSchedule):
        pass

    return Broken


@breaks("steps_are_drawn_from_1_to_n")
def timesteps_from_0():
    class Broken(UniformTimestepSampler, name="broken"):
        def sample(self, shape, generator, device=None):
            steps, weights = super().sample(shape, generator, device)
            return steps - 1, weights

    return Broken


@breaks("frequencies_match_the_probabilities")
def timesteps_without_the_last():
    class Broken(UniformTimestepSampler, name="broken"):
        def sample(self, shape, generator, device=None):
            steps, weights = super().sample(shape, generator, device)
            return steps.clamp(max=max(1, self.num_timesteps - 1)), weights

    return Broken


@breaks("weights_are_inverse_probabilities")
def timesteps_with_equal_weights():
    class Broken(ImportanceTimestepSampler, name="broken"):
        def sample(self, shape, generator, device=None):
            steps, weights = super().sample(shape, generator, device)
            return steps, torch.ones_like(weights)

    return Broken


@breaks("leaves_the_global_random_state_alone")
def timesteps_from_the_state_of_numpy():
    class Broken(UniformTimestepSampler, name="broken"):
        def sample(self, shape, generator, device=None):
            steps, weights = super().sample(shape, generator, device)
            return steps + 0 * np.random.randint(2), weights  # noqa: NPY002

    return Broken


@breaks("the_same_generator_gives_the_same_bits")
def timesteps_of_one_seed():
    class Broken(UniformTimestepSampler, name="broken"):
        def sample(self, shape, generator, device=None):
            return super().sample(shape, torch.Generator().manual_seed(0), device)

    return Broken


@breaks("learned_state_round_trips")
def timesteps_whose_state_is_no_copy():
    class Broken(ImportanceTimestepSampler, name="broken"):
        def state_dict(self):
            return {"losses": self._losses, "seen": self._seen}

    return Broken


@breaks("leaves_the_global_random_state_alone")
def sampler_that_ignores_its_generator():
    class Broken(OneStepSampler, name="broken"):
        def sample(self, denoise, process, start, generator, *, callback=None):
            x = super().sample(denoise, process, start, generator, callback=callback)
            return x + 0.1 * torch.randn_like(x)

    return Broken


@breaks("with_a_generator_a_draw_neither_batch_nor_other_draws_matter")
def sampler_with_a_generator_of_its_own():
    class Broken(DDPMSampler, name="broken"):
        def sample(self, denoise, process, start, generator, *, callback=None):
            own = torch.Generator().manual_seed(0)
            return super().sample(denoise, process, start, own, callback=callback)

    return Broken


@breaks("with_a_generator_a_draw_neither_batch_nor_other_draws_matter")
def sampler_of_one_stream_for_all_draws():
    class Broken(DDPMSampler, name="broken"):
        def sample(self, denoise, process, start, generator, *, callback=None):
            first = generator if isinstance(generator, torch.Generator) else generator[0]
            return super().sample(denoise, process, start, first, callback=callback)

    return Broken


@breaks("steps_go_down_from_n")
def sampler_that_starts_a_step_early():
    class Broken(OneStepSampler, name="broken"):
        def sample(self, denoise, process, start, generator, *, callback=None):
            def early(xn, timesteps):
                return denoise(xn, timesteps - 1)

            return super().sample(early, process, start, generator, callback=callback)

    return Broken


@breaks("a_chain_over_every_step_lands_on_gaussian_data")
def sampler_of_too_little_noise():
    class Broken(DDPMSampler, name="broken"):
        def solver(self, ask, process, generator):
            def advance(x0, xn, n, m):
                now, then = (torch.as_tensor(step).expand(xn.shape[:2]) for step in (n, m))
                return process.schedule.posterior(x0, xn, now, then)[0]

            return advance

    return Broken


@breaks("the_noise_is_not_written_to")
def sampler_that_writes_to_its_noise():
    class Broken(OneStepSampler, name="broken"):
        def sample(self, denoise, process, start, generator, *, callback=None):
            sample = super().sample(denoise, process, start, generator, callback=callback)
            start.mul_(0.5)
            return sample

    return Broken


@breaks("the_callback_sees_every_step")
def sampler_that_ignores_its_callback():
    class Broken(DDPMSampler, name="broken"):
        def sample(self, denoise, process, start, generator, *, callback=None):
            return super().sample(denoise, process, start, generator)

    return Broken


@breaks("the_chain_goes_on_with_what_a_callback_assigns")
def sampler_that_ignores_what_is_assigned():
    class Broken(DDPMSampler, name="broken"):
        def sample(self, denoise, process, start, generator, *, callback=None):
            def seen(step):
                xn = step.xn
                callback(step)
                step.xn = xn

            return super().sample(denoise, process, start, generator, callback=callback and seen)

    return Broken


@breaks("a_schedule_stands_for_its_gaussian_process")
def sampler_of_schedules_alone():
    class Broken(OneStepSampler, name="broken"):
        def sample(self, denoise, process, start, generator, *, callback=None):
            return denoise(start, torch.full(start.shape[:2], process.num_timesteps))

    return Broken


@breaks("a_callback_stops_the_chain_at_its_prediction")
def sampler_that_does_not_stop():
    class Broken(DDPMSampler, name="broken"):
        def sample(self, denoise, process, start, generator, *, callback=None):
            def seen(step):
                callback(step)
                step.stopped = False

            return super().sample(denoise, process, start, generator, callback=callback and seen)

    return Broken


@breaks("a_step_to_itself_keeps_the_latent")
def process_with_noise_in_every_step():
    class Broken(GaussianProcess, name="broken"):
        def step(self, x0, xn, timesteps, previous, generator, *, eta=1.0):
            x = super().step(x0, xn, timesteps, previous, generator, eta=eta)
            return x + 0.1 * randn(x.shape, generator, device=x.device, dtype=x.dtype)

    return Broken


@breaks("what_was_drawn_gives_the_same_latents_again")
def process_that_draws_its_noise_again():
    class Broken(GaussianProcess, name="broken"):
        def corrupt(self, x0, timesteps, generator, *, noise=None):
            return super().corrupt(x0, timesteps, generator or torch.Generator().manual_seed(0))

    return Broken


@breaks("a_query_sees_its_visible_items_alone")
def source_of_the_whole_history():
    class Broken(Source, name="broken"):
        def centre(self, history, queries):
            return history.latent().mean(1)[:, None, None].expand(-1, queries.visible.shape[1], 1, -1)

    return Broken


@breaks("the_loss_is_minus_the_mean_log_softmax_of_the_logits")
def head_whose_loss_lacks_the_bias():
    class Broken(LinearHead, name="broken"):
        def loss(self, latent, target, negatives=None):
            scores = F.linear(latent, self.weight)
            return F.cross_entropy(scores.flatten(0, -2), target.flatten())

    return Broken


@breaks("logits_are_an_inner_product")
def head_whose_logits_are_not_its_keys():
    class Broken(LinearHead, name="broken"):
        def logits(self, latent):
            return super().logits(latent) / 2

    return Broken


@breaks("permuting_item_ids_permutes_the_scores_and_nothing_else")
def head_that_depends_on_item_order():
    class Broken(LinearHead, name="broken"):
        def bias(self, items=None):
            place = torch.arange(self.num_items)
            return super().bias(items) + (place if items is None else place[items])

    return Broken


@breaks("a_shared_embedding_is_saved_by_its_owner_alone")
def head_that_owns_a_shared_embedding():
    class Broken(TiedHead, name="broken"):
        def __init__(self, embedding, *, use_bias=True):
            super().__init__(embedding, use_bias=use_bias)
            self.table = embedding

    return Broken


@breaks("an_item_gets_its_row")
def embedding_that_depends_on_its_batch():
    class Broken(TableEmbedding, name="broken"):
        def forward(self, items):
            latents = super().forward(items)
            return latents - latents.flatten(0, -2).mean(0) if items.numel() else latents

    return Broken


@breaks("visible_and_corrupted_positions_tile_the_sequence")
def noising_behind_the_target():
    class Broken(TargetOnly, name="broken"):
        def queries(self, targets, width):
            found = super().queries(targets, width)
            return Queries(found.visible + 1, found.positions + 1, found.count, found.answer)

    return Broken


@breaks("per_latent_is_independent")
def objective_with_weighted_per_latent():
    class Broken(SimplifiedObjective, name="broken"):
        def __call__(self, step):
            terms = super().__call__(step)
            return LossTerms(terms.total, terms.named, step.weights * terms.per_latent)

    return Broken


@breaks("weights_multiply_per_latent")
def objective_that_ignores_the_weights():
    class Broken(SimplifiedObjective, name="broken"):
        def __call__(self, step):
            return super().__call__(replace(step, weights=torch.ones_like(step.weights)))

    return Broken


@breaks("weights_multiply_per_latent")
def objective_whose_per_latent_is_another_loss():
    class Broken(SimplifiedObjective, name="broken"):
        def __call__(self, step):
            terms = super().__call__(step)
            return LossTerms(terms.total, terms.named, terms.per_latent.square())

    return Broken


@breaks("can_be_called")
def objective_with_an_undeclared_pass():
    class Broken(SimplifiedObjective, name="broken"):
        def __call__(self, step):
            terms = super().__call__(step)
            return replace(terms, total=terms.total + step.at("final").prediction.square().mean())

    return Broken


@breaks("gradients_reach_the_declared_passes")
def objective_with_an_unused_pass():
    class Broken(SimplifiedObjective, name="broken"):
        def __init__(self):
            super().__init__()
            self.passes = ("sampled", "null")

    return Broken


@breaks("passes_are_known")
def objective_with_an_unknown_pass():
    class Broken(SimplifiedObjective, name="broken"):
        def __init__(self):
            super().__init__()
            self.passes = ("sampled", "start")

    return Broken


@breaks("passes_are_known")
def objective_without_the_sampled_pass():
    class Broken(Objective, name="broken"):
        passes = ("final",)

        def __call__(self, step):
            loss = step.head.loss(step.at("final").prediction, step.at("final").items)
            return LossTerms(loss, {}, torch.zeros_like(step.weights))

    return Broken


@breaks("half_precision_is_computed_in_full")
def objective_in_half_precision():
    class Broken(SimplifiedObjective, name="broken"):
        def __call__(self, step):
            terms, sampled = super().__call__(step), step.sampled
            squared = (sampled.x0.to(sampled.output.dtype) - sampled.prediction).square().mean(-1)
            return replace(terms, per_latent=squared.detach().float())

    return Broken


@breaks("term_is_not_weighted")
def term_that_multiplies_by_its_weight():
    class Broken(CosineTerm, name="broken"):
        def __call__(self, step):
            return self.weight * super().__call__(step)

    return Broken


@breaks("latents_are_independent")
def term_that_depends_on_its_batch():
    class Broken(CosineTerm, name="broken"):
        def __call__(self, step):
            distance = super().__call__(step)
            return distance - distance.mean().detach()

    return Broken


@breaks("without_noise_is_a_term_of_one_step")
def term_that_keeps_its_pass_without_noise():
    class Broken(CrossEntropyTerm, name="broken"):
        def __init__(self, weight=1.0, *, at="final"):
            super().__init__(weight, at=at)

        def without_noise(self):
            return self.config()

    return Broken


@breaks("frequencies_match_the_expected_counts")
def negatives_that_expect_too_many():
    class Broken(UniformNegatives, name="broken"):
        def draw(self, targets, num_items, generator):
            sample = super().draw(targets, num_items, generator)
            return NegativeSample(sample.items, sample.log_expected + 0.2)

    return Broken


@breaks("leaves_the_global_random_state_alone")
def negatives_from_the_state_of_python():
    class Broken(UniformNegatives, name="broken"):
        def draw(self, targets, num_items, generator):
            return super().draw(targets, num_items, torch.Generator().manual_seed(random.randrange(2**31)))

    return Broken


@breaks("rows_are_independent")
def memory_that_reads_padding():
    class Broken(TransitionMemory, name="broken"):
        def predict(self, history):
            return super().predict(replace(history, lengths=torch.full_like(history.lengths, history.items.shape[1])))

    return Broken


@breaks("mass_is_a_share_on_known_items")
def memory_of_too_much_mass():
    class Broken(TransitionMemory, name="broken"):
        def predict(self, history):
            found = super().predict(history)
            return MemoryPrediction(found.items, 4 * found.mass, found.share)

    return Broken
