r"""The perceptron of ``conditional-mlp`` as a vector field: its output is the velocity of the flow.

.. math:: \frac{\mathrm d x_t}{\mathrm d t} = v_\theta(x_t, t \mid \text{history})
"""

from __future__ import annotations

from diffusers_rec.denoisers.conditional_mlp import ConditionalMLPDenoiser


class VelocityMLPDenoiser(ConditionalMLPDenoiser, name="velocity-mlp"):
    r"""A residual perceptron that predicts the velocity. Arguments as in :class:`ConditionalMLPDenoiser`.

    On ``rectified`` levels, the target is :math:`c + \epsilon - x_0` for a chain with centre c.
    """

    prediction = "velocity"
