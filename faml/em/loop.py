"""The EM loop: a generator of immutable states, whatever the strategy.

One pass runs over blocks of particles whose sums are added in a fixed order (`em.blocks`), so
results do not depend on who visits them (`em.workers`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from faml.clock import StageClock
from faml.config import BLIND_STARTS, RunConfig
from faml.em.axes import (
    iterations_without_symmetry,
    onto_axes,
    seen_about_standard_axes,
)
from faml.em.batches import batch_of, in_batches
from faml.em.blank import blank_model
from faml.em.checks import check_run, largest_shift, whole_tomograms
from faml.em.folds import folds_of
from faml.em.groups import Estimates, Groups
from faml.em.halves import agreement, frame_reach, split_into_halves, unmoved
from faml.em.maximization import MStep, maximise
from faml.em.passes import Pass, Progress, run_pass
from faml.em.reseed import reseeded, reseeding, starved
from faml.em.running import after_batch
from faml.em.schedule import (
    LOOK_AHEAD,
    attraction,
    best_and_stalled,
    classes_balanced,
    exploration,
    first_align_shell,
    last_shell,
    measure_changes,
    measured_ssnr,
    next_shell,
    sharpness,
    ssnr_needed,
    stop_reason,
)
from faml.em.search import FixedPose, PassPlan
from faml.em.start import fixed_assignments, start_assignments, start_seed
from faml.em.state import Assignments, State, SymmetrySeen
from faml.em.workers import Threads, Workers
from faml.errors import ConfigurationError
from faml.model import Model
from faml.particles import ParticleSet
from faml.references import band_limit
from faml.strategies.base import SearchContext, Strategy
from faml.strategies.fast_alignment import FastAlignment
from faml.strategies.registry import create_strategy
from faml.symmetry import point_group
from faml.transforms.fourier import FourierGrid, fourier_grid, full_resolution_shell
from faml.transforms.masks import soft_sphere

__all__ = ["EmRun", "Progress"]

_LOG = logging.getLogger(__name__)

_DEFAULT_RADIUS = 0.3
"""Particle radius as a fraction of the box where no diameter is given."""
_MASK_EDGE_VOXELS = 3.0
_REFERENCE_PASSES = 3
_NO_PRIOR = 1e30
"""Signal power that leaves a solution to the data."""


class EmRun:
    """One run: particles, configuration and the strategy, ready to iterate.

    Parameters
    ----------
    particles : ParticleSet
    config : RunConfig
    reference : (n, n, n) float32 or None
        For a start from a reference; its grey scale does not matter.
    mask : (n, n, n) float32 or None
        0 to 1; for a mask from a file.
    progress : Progress or None
    start_number : int
        Which of several random starts (`em.trials`); 1 is that of a run without others.
    clock : StageClock, optional
        Told where the time goes.
    workers : Workers, optional
        Who visits the particles; as many threads as the configuration says by default.

    Raises
    ------
    ConfigurationError
        Settings that do not fit the particles.
    """

    def __init__(
        self,
        particles: ParticleSet,
        config: RunConfig,
        *,
        reference: npt.NDArray[np.float32] | None = None,
        mask: npt.NDArray[np.float32] | None = None,
        progress: Progress | None = None,
        start_number: int = 1,
        clock: StageClock | None = None,
        workers: Workers | None = None,
    ) -> None:
        self.particles = particles
        self.config = config
        self._progress = progress
        self._clock = clock or StageClock()
        self.workers: Workers = workers or Threads(config.threads)
        """Who visits the particles; may be replaced."""
        self._reference = reference
        self._mask = mask
        self._start_number = start_number
        self._seed = start_seed(config.em.seed, start_number)
        check_run(particles, config, reference, mask)
        box = particles.box
        self.symmetry = point_group(config.em.symmetry)
        self.max_shift_voxels = largest_shift(particles, config)
        diameter = config.data.particle_diameter_angstrom
        self.radius_voxels = _DEFAULT_RADIUS * box
        if diameter is not None:
            self.radius_voxels = 0.5 * diameter / particles.voxel_size_angstrom
            if mask is None:
                self._mask = soft_sphere(box, self.radius_voxels, _MASK_EDGE_VOXELS)
        context = SearchContext(
            config=config.search,
            box=box,
            max_shift_voxels=self.max_shift_voxels,
            seed=config.em.seed,
            radius_voxels=self.radius_voxels,
            last_shell=last_shell(box, config.em),
            classes=config.em.classes,
            symmetry=self.symmetry,
        )
        self._context = context
        self._strategy = create_strategy(config.search.strategy, context)
        self._blind = config.em.start in BLIND_STARTS
        halves: tuple[npt.NDArray[np.int64], ...] = (np.arange(len(particles)),)
        if config.em.half_sets:
            halves = split_into_halves(
                len(particles), config.em.seed, whole_tomograms(particles, config)
            )
        self.folds = folds_of(config.em.folds, min(len(half) for half in halves))
        self._groups = Groups(len(particles), halves, self.folds, config.em.seed, blind=self._blind)

    @cached_property
    def _weight_maximum(self) -> float:
        """Largest W of the data, which only the imputing update asks for: it reads all weights."""
        indices = np.unique(self.particles.weight_index)
        return max(float(self.particles.weight(int(w)).max()) for w in indices)

    @property
    def halves(self) -> tuple[npt.NDArray[np.int64], ...]:
        """Particles of each half-set; those of all, as one, without."""
        return self._groups.halves

    @property
    def mask(self) -> npt.NDArray[np.float32] | None:
        """What averages are multiplied by, (n, n, n) float32."""
        return self._mask

    def again(
        self, config: RunConfig, *, start_number: int = 1, particles: ParticleSet | None = None
    ) -> EmRun:
        """Another run with other settings, of the same particles or what was made of them."""
        return EmRun(
            self.particles if particles is None else particles,
            config,
            reference=self._reference,
            mask=self._mask,
            progress=self._progress,
            start_number=start_number,
            clock=self._clock,
            workers=self.workers,
        )

    # ------------------------------------------------------------------ states

    def states(self, resume_from: State | None = None) -> Iterator[State]:
        """Yield the start (iteration 0) and every iteration until convergence or the maximum.

        Parameters
        ----------
        resume_from : State, optional
            Continue after this state, which is not yielded again.
        """
        em = self.config.em
        free = min(iterations_without_symmetry(em), em.iterations)
        state = resume_from
        if state is not None and len(state.fold_models) not in (0, len(self._groups)):
            raise ConfigurationError(
                f"the run to continue has {len(state.fold_models)} folds, expected "
                f"{len(self._groups)}; give --folds as it was begun with"
            )
        if state is None:
            state = (self._asymmetric if free else self)._start()
            yield state
        while not state.converged and state.iteration < em.iterations:
            if state.iteration < free and state.symmetry == "C1":
                # Without its symmetry no run has come to its end.
                state = replace(self._asymmetric._iterate(state), stop_reason="")
            else:
                state = self._iterate(self._symmetric(state))
            yield state

    @cached_property
    def _asymmetric(self) -> EmRun:
        """The same run without its symmetry."""
        em = self.config.em.model_copy(update={"symmetry": "C1", "symmetry_after": None})
        return self.again(
            self.config.model_copy(update={"em": em}), start_number=self._start_number
        )

    def _symmetric(self, state: State) -> State:
        """The state in a frame in which the run's symmetry can be imposed, if it was not yet."""
        if state.symmetry == self.symmetry.name:
            return state
        turned = onto_axes(state, self.symmetry, self.particles.voxel_size_angstrom)
        return replace(turned, running=None)

    def finish(self, state: State) -> State:
        """The last state with averages at full resolution.

        Poses are those of one more E-step at the final resolution, around the last ones and with
        sums over all shells.
        """
        if state.iteration == 0 and not self.config.em.half_sets:
            # Already at full resolution; what each particle is to its average is not yet known.
            grid = fourier_grid(self.particles.box, state.align_shell, state.align_shell)
            found = self._pass(
                state.references, grid, FixedPose(self._context), state.assignments, 0, settled=True
            ).assignments
            return replace(
                state, assignments=found, log_likelihood=float(found.log_likelihoods.sum())
            )
        full = full_resolution_shell(self.particles.box)
        state = self._symmetric(state)
        return self._iterate(replace(state, stop_reason=""), sum_shell=full, keep=state)

    def held_out_log_likelihood(self, state: State, align_shell: int) -> float:
        """Log-likelihood of all particles under what a state says they are aligned to next.

        With folds, no particle is part of that. Comparable between runs at one ``align_shell``.
        """
        if state.symmetry != self.symmetry.name:  # not yet imposed: all of pose space is searched
            return self._asymmetric.held_out_log_likelihood(state, align_shell)
        grid = fourier_grid(self.particles.box, align_shell, align_shell)
        done = self._pass(
            state.references,
            grid,
            self._strategy,
            state.assignments,
            state.iteration + 1,
            settled=True,
        )
        return float(done.assignments.log_likelihoods.sum())

    def _start(self) -> State:
        em = self.config.em
        box = self.particles.box
        assignments = start_assignments(self.particles, em.start, em.classes, self._seed)
        align_shell = self._start_shell()
        full = full_resolution_shell(box)
        # Averages of random orientations are noise, of which shells to be aligned to are enough.
        known = not self._blind or em.iterations == 0
        grid = fourier_grid(
            box, align_shell, full if known else min(align_shell + LOOK_AHEAD, full)
        )
        model = blank_model(
            self.particles, self.config, self.max_shift_voxels, self.workers, self._clock
        )
        if self._reference is not None:
            assignments = self._align_to_reference(self._reference, model, grid, assignments)
        done = self._pass((model,), grid, FixedPose(self._context), assignments, 0)
        found = self._maximise(done, model, (), (), grid, known_poses=not self._blind)
        found, assignments, fsc = self._compared(found, done.assignments, align_shell)
        ssnr = measured_ssnr(found.step.ssnr, fsc)
        following = align_shell
        if not self._blind and em.march:
            # Given poses were not fitted to this noise, so every shell's SSNR is honest; those
            # from a reference were, up to its low-pass.
            best = ssnr.max(axis=0)[1:]
            reached = int(np.cumprod(best > ssnr_needed(em)).sum())
            limited = self._reference is not None or em.start_lowpass_angstrom is not None
            top = align_shell if limited else last_shell(box, em)
            following = min(max(first_align_shell(box, self.radius_voxels, em), reached), top)
        return State(
            iteration=0,
            model=found.step.model,
            assignments=assignments,
            align_shell=align_shell,
            next_align_shell=following,
            log_likelihood=float(assignments.log_likelihoods.sum()),
            ssnr=ssnr,
            changes=None,
            empty_classes=found.step.empty_classes,
            stop_reason="",
            fold_models=found.references,
            half_models=found.halves,
            fsc=fsc,
            symmetry=self.symmetry.name,
            symmetry_seen=self._symmetry_of_given_poses(done, model, grid, following),
        )

    def _symmetry_of_given_poses(
        self, done: Pass, blank: Model, grid: FourierGrid, following: int
    ) -> tuple[SymmetrySeen, ...]:
        """What averages at the input poses have of the symmetry before it is imposed.

        ``following`` is the shell they are aligned to next.
        """
        if self.config.em.start != "poses" or self.symmetry.order == 1:
            return ()
        step = maximise(
            done.total,
            blank,
            grid,
            self.config.em,
            weight_maximum=self._weight_maximum if self.config.em.update == "impute" else None,
            mask=self._mask,
            known_poses=True,
        )
        size = self.particles.voxel_size_angstrom
        return seen_about_standard_axes(
            step.model.volumes, step.ssnr, self.symmetry, size, following
        )

    def _align_to_reference(
        self,
        reference: npt.NDArray[np.float32],
        blank: Model,
        grid: FourierGrid,
        split: Assignments,
    ) -> Assignments:
        """Poses of all particles on the one reference, with the classes of ``split``.

        Hard alignment does not see the reference's grey scale; the averages it leads to have the
        data's. The passes after the first search around the poses found: the better they fit the
        reference, the better the averages keep its frame.
        """
        single = replace(
            blank,
            volumes=reference[None],
            class_fractions=np.ones(1),
            signal_power=blank.signal_power[:1],
        )
        zeros = np.zeros_like(split.classes)
        found = fixed_assignments(zeros, split.rotations, split.translations, 1)
        strategy = FastAlignment(self._context)
        for number in range(_REFERENCE_PASSES):
            found = self._pass((single,), grid, strategy, found, -1 - number).assignments
        return fixed_assignments(split.classes, found.rotations, found.translations, blank.classes)

    def _start_shell(self) -> int:
        em, box = self.config.em, self.particles.box
        shell = first_align_shell(box, self.radius_voxels, em)
        if self._reference is not None and em.start_lowpass_angstrom is None and not em.half_sets:
            # Half-sets that see all of one reference would agree on it whatever the data.
            return last_shell(box, em)
        if em.start_lowpass_angstrom is not None:
            extent = box * self.particles.voxel_size_angstrom
            shell = int(np.clip(extent / em.start_lowpass_angstrom, 2, last_shell(box, em)))
        return shell

    def _iterate(
        self, state: State, *, sum_shell: int | None = None, keep: State | None = None
    ) -> State:
        em, box = self.config.em, self.particles.box
        align_shell = state.align_shell if keep else state.next_align_shell
        if sum_shell is None:
            sum_shell = min(align_shell + LOOK_AHEAD, full_resolution_shell(box))
        grid = fourier_grid(box, align_shell, sum_shell)
        iteration = state.iteration + 1
        done = self._pass(
            state.references,
            grid,
            FixedPose(self._context) if state.iteration == 0 and keep else self._strategy,
            state.assignments,
            iteration,
            settled=bool(keep),
            refine=bool(keep) and state.iteration > 0,
            last=bool(keep),
            batch=keep is None,
        )
        reset = False
        lost = starved(done.assignments.take(done.visited), em)
        if len(lost) and keep is None and reseeding(iteration, em):
            done = self._reseeded(done, state, grid, lost, iteration)
            reset = True
        running = None
        if keep is None and in_batches(iteration, len(self.particles), em):
            # With a class that began again, what the others have left is of another split.
            running = after_batch(None if reset else state.running, done.sums, grid)
            done = replace(done, sums=running.sums(self._groups.sizes))
        found = self._maximise(
            done,
            state.model,
            state.half_models,
            state.fold_models,
            grid,
            outline=em.mask == "auto" and exploration(iteration, em) == 0,
            last=keep is not None,
            attraction=0.0 if keep else attraction(iteration, em),
        )
        visited = done.visited
        changes = measure_changes(
            state.assignments.take(visited), done.assignments.take(visited), self.symmetry
        )
        own_frame = found
        found, assignments, fsc = self._compared(
            found, done.assignments, align_shell, settled=keep is not None
        )
        ssnr = measured_ssnr(found.step.ssnr, fsc)
        log_likelihood = float(assignments.log_likelihoods[visited].sum())
        log_likelihood *= len(assignments) / len(visited)
        best, stalled = log_likelihood, 0
        all_twice = not any(in_batches(i, len(assignments), em) for i in (iteration - 1, iteration))
        if all_twice:  # what batches say of the likelihood scatters by more than gains are
            best, stalled = best_and_stalled(state, log_likelihood, align_shell, em)
        new = State(
            iteration=state.iteration if keep else iteration,
            model=found.step.model,
            assignments=assignments,
            align_shell=align_shell,
            next_align_shell=next_shell(align_shell, ssnr, box, em),
            log_likelihood=log_likelihood,
            ssnr=ssnr,
            changes=changes,
            empty_classes=found.step.empty_classes,
            stop_reason="",
            fold_models=found.references,
            half_models=found.halves,
            fsc=fsc,
            symmetry=self.symmetry.name,
            best_log_likelihood=best,
            stalled=stalled,
            symmetry_seen=state.symmetry_seen,
            running=running if found is own_frame else None,
        )
        if keep:
            return replace(new, changes=keep.changes, stop_reason=keep.stop_reason)
        return replace(new, stop_reason=stop_reason(state, new, em)) if all_twice else new

    def _compared(
        self,
        found: Estimates,
        assignments: Assignments,
        align_shell: int,
        *,
        settled: bool = False,
    ) -> tuple[Estimates, Assignments, npt.NDArray[np.float64] | None]:
        """Halves in one frame and order of classes, and their FSC.

        ``settled`` maps lie in the frame of the iteration before, and are too noisy to find one.
        """
        if not found.halves:
            return found, assignments, None
        first, second = found.halves
        reach = frame_reach(self.particles.box, self.max_shift_voxels)
        agreed = (
            unmoved(first.classes)
            if settled
            else agreement(first, second, align_shell, reach, one_frame=not self._blind)
        )
        plain_first, plain_second = found.plain
        fsc = agreed.fsc(plain_first, plain_second, self._mask)
        return (*self._groups.in_one_frame(found, assignments, agreed), fsc)

    def _maximise(
        self,
        done: Pass,
        old: Model,
        halves: tuple[Model, ...],
        references: tuple[Model, ...],
        grid: FourierGrid,
        *,
        known_poses: bool = False,
        outline: bool = False,
        last: bool = False,
        attraction: float = 0.0,
    ) -> Estimates:
        """M-step of all particles, of each half, and what each group is aligned to next.

        The halves' ``last`` maps have neither mask nor prior: they are there to be compared.
        """

        def timed(*sums_and_model: Any, **settings: Any) -> MStep:
            with self._clock.stage("averages"):
                return maximise(*sums_and_model, **settings)

        solve = partial(
            timed,
            grid=grid,
            config=self.config.em,
            weight_maximum=self._weight_maximum if self.config.em.update == "impute" else None,
            mask=self._mask,
            outline=outline,
            symmetry=self.symmetry,
            known_poses=known_poses,
            attraction=attraction,
        )
        plain = partial(
            solve,
            config=self.config.em.model_copy(update={"update": "ratio"}),
            mask=None,
            outline=False,
            attraction=0.0,
            fixed_power=np.full_like(old.signal_power, _NO_PRIOR),
        )
        return self._groups.solve(
            done.sums,
            solve,
            old,
            halves,
            references,
            self.config.threads,
            solve_plain=plain,
            last=last,
        )

    # ------------------------------------------------------------------ passes

    def _pass(
        self,
        models: tuple[Model, ...],
        grid: FourierGrid,
        strategy: Strategy,
        before: Assignments,
        iteration: int,
        *,
        settled: bool = False,
        refine: bool = False,
        last: bool = False,
        batch: bool = False,
    ) -> Pass:
        """One pass over the particles: posteriors and sums under one model, or one per group.

        ``settled`` passes do not explore, and see to classes as the iteration before did;
        ``refine`` moves poses below grid spacing, unless the configuration forbids it; after the
        ``last`` nothing is held out, and there is one sum of each half, not of each fold; with
        ``batch`` those are visited that the iteration has drawn, else all.
        """
        em, search = self.config.em, self.config.search
        plan = PassPlan(
            models=models,
            align_shell=grid.align_shell,
            sum_shell=grid.sum_shell,
            bandwidth=band_limit(
                grid.box, grid.align_shell, self.radius_voxels, search.max_bandwidth
            ),
            exploration=0.0 if settled else exploration(iteration, em),
            strategy=strategy,
            iteration=iteration,
            seed=self._seed,
            balanced=classes_balanced(iteration - settled, em),
            sharpness=1.0 if settled else sharpness(iteration, em),
            refine=self._context if refine and search.refine else None,
        )
        return run_pass(
            plan,
            self.particles,
            batch_of(self._groups.members, iteration, self._seed, em)
            if batch
            else self._groups.members,
            before,
            self.workers,
            chunk_size=em.chunk_size,
            sum_of=self._groups.half_of if last else range(len(self._groups)),
            clock=self._clock,
            progress=self._progress,
        )

    def _reseeded(
        self,
        done: Pass,
        state: State,
        grid: FourierGrid,
        lost: npt.NDArray[np.int64],
        iteration: int,
    ) -> Pass:
        """The pass with what was found, but for the worst explained, who make up lost classes."""
        _LOG.info(
            "iteration %d: class %s has lost its particles and begins again from those that the "
            "others explain worst",
            iteration,
            " ".join(str(k + 1) for k in lost),
        )
        seen = done.visited  # of others it is not known how well they are explained
        new = done.assignments.updated(seen, reseeded(done.assignments.take(seen), lost))
        again = self._pass(
            state.references, grid, FixedPose(self._context), new, iteration, batch=True
        )
        return replace(again, assignments=new)
