"""Whether a run makes detail where there is none (HR-noise test of Chen et al. 2013).

The particles' phases are made random beyond a shell, and the run goes on with them from its last
state. What the half-sets then agree in beyond that shell is not in the data.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from faml.em.loop import EmRun
from faml.em.state import State
from faml.errors import ConfigurationError
from faml.metrics.fsc import first_randomised
from faml.model import Model
from faml.transforms.fourier import shell_indices, spectrum_of, volume_of

__all__ = ["Overfitting", "check_overfitting"]

_ITERATIONS = 3
_MARGIN = 2
"""Shells after the first random one whose detail leaks from those before."""
_SUSPICIOUS = 0.143


@dataclass(frozen=True)
class Overfitting:
    """What half-sets agree in where the data are random.

    Attributes
    ----------
    first_shell : int
        From here on phases are random.
    last_shell : int
        Of the alignment.
    fsc : (K, n // 2) float64
        Of the half-sets after some more iterations with such data.
    """

    first_shell: int
    last_shell: int
    fsc: npt.NDArray[np.float64]

    @property
    def agreement(self) -> npt.NDArray[np.float64]:
        """Mean FSC of each class where it should be zero, (K,)."""
        start = self.first_shell + _MARGIN
        return self.fsc[:, start : max(start, self.last_shell) + 1].mean(axis=1)

    @property
    def suspicious(self) -> tuple[int, ...]:
        """Classes, zero-based, that agree in noise."""
        return tuple(int(k) for k in np.nonzero(self.agreement > _SUSPICIOUS)[0])


def check_overfitting(run: EmRun, state: State) -> Overfitting | None:
    """Go on for three iterations with data that are random beyond where the halves agree well.

    Parameters
    ----------
    run : EmRun
        With half-sets.
    state : State
        Its last one.

    Returns
    -------
    Overfitting or None
        None where the halves agree well as far as they were aligned: nothing is left to be tested.

    Raises
    ------
    ConfigurationError
        Without half-sets.
    """
    if state.fsc is None:
        raise ConfigurationError("the check for overfitting compares half-sets; give --half-sets")
    first = max(first_randomised(curve) for curve in state.fsc)
    if first + _MARGIN > state.align_shell:
        return None
    em = run.config.em.model_copy(
        update={"iterations": state.iteration + _ITERATIONS, "max_shell": state.align_shell}
    )
    again = run.again(
        run.config.model_copy(update={"em": em}),
        particles=run.particles.with_random_phases(first, em.seed),
    )
    # Detail that both halves have learnt from the true data must not help them to agree.
    going_on = replace(
        state.going_on(),
        running=None,
        half_models=tuple(_coarse(model, first) for model in state.half_models),
        fold_models=tuple(_coarse(model, first) for model in state.fold_models),
    )
    *_, last = (going_on, *again.states(going_on))
    fsc = again.finish(last).fsc
    assert fsc is not None  # half-sets have one
    return Overfitting(first, state.align_shell, fsc)


def _coarse(model: Model, first_shell: int) -> Model:
    """The model without detail from a shell on."""
    n = model.volumes.shape[-1]
    kept = shell_indices(n) < first_shell
    volumes = [volume_of((spectrum_of(v) * kept).astype(np.complex64), n) for v in model.volumes]
    return replace(model, volumes=np.stack(volumes))
