"""Writes bench/results.md from bench/results/*.json.

python bench/tables.py
"""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TITLES = {
    "quality": "Quality on simulated particles",
    "conventions": "Conventions: RELION's angles in, RELION's angles out",
    "lowsnr": "Strategies at low signal-to-noise",
    "selfbias": "Folds and sharp posteriors",
    "denovo": "From nothing: symmetry, several starts, turns about the tilt axis",
    "ribosome": "Real ribosomes",
    "snr": "Signal-to-noise ratio: set and measured",
    "exhaustive": "Exhaustive search: exactness, cost, and where the time goes",
    "scout": "Shifts ruled out by half of the shells",
    "speed": "Speed, CPU time of one thread",
    "memory": "Memory",
    "pack": "Packs",
    "demo": "Demo",
    "faults": "Kills at random instants",
    "fuzz": "Broken and hostile files",
}
INTRODUCTIONS = {
    "quality": (
        "White noise, tilt range +-60 degrees, shifts to +-3 voxels per axis, random orientations, "
        "no reference. `r` is Pearson's correlation with the true density over the box after rigid "
        "alignment; the oracle is the average at the true poses and classes. GroEL is 64^3 at 6 "
        "Angstrom with N = 100 (per class), 70S 32^3 at 12 Angstrom with N = 40. Measured with "
        "candidates of the amplitude bound and a first shell of 1/3.5 of the diameter, before "
        "phased candidates and a sixth became the defaults."
    ),
    "conventions": (
        "Eight noise-free 70S particles, `faml run --start reference.mrc`, then `--start poses` on "
        "the STAR file it wrote. Wanted: 4 degrees, 0.5 voxel, FSC 0.95."
    ),
    "lowsnr": (
        "As above with phased candidates and a first shell of a sixth of the diameter, one common "
        "average and plain posteriors (before folds and sharp ones became the defaults, next "
        "table), at most 24 iterations; means over seeds first. `faml` and `fa` take phased "
        "candidates, `faml-amplitude` those of the amplitude bound. Start `truth` is the true "
        "density as the reference, with 10 folds: what the particles can hold. On 70S "
        "exhaustive is ahead of all others, "
        "amplitude candidates of phased ones (on real ribosomes it is the other way "
        "round, next tables), and FAML is level with FA. Candidates are kept apart, and "
        "posteriors there are broad around each: exhaustive has 186, 135 and 109 "
        "effective poses in its first iterations (seed 1, 0.003), FAML 5 to 9, and with "
        "200 candidates instead of 50 no more and r 0.773. On GroEL at 0.001 FA is "
        "behind. On GroEL at 0.003 all four are level within their errors (0.006 to "
        "0.01). What limits there is the pace of EM, not the integral: a soft posterior "
        "breaks the sevenfold symmetry slowly. After 20 iterations exhaustive still gains "
        "a third of a nat per particle and iteration; seed 1 reaches 0.900 when it is left "
        "to run for 40, and started from the truth it stays at 0.898."
    ),
    "selfbias": (
        "What the present defaults add: five folds, so that no particle sees its own noise, and "
        "posteriors raised to the fourth power while poses are explored. `held out gain` is the "
        "log-likelihood per particle, under averages the particle is no part of, above that of "
        "noise alone (to shell 11): a random start ends within 0.5 % of a start from the truth. "
        "Plain folds leave exhaustive search at r 0.830 on GroEL at 0.003 (seed 1, 17 iterations, "
        "not resolved beyond shell 10): broad posteriors keep a ring that looks alike from all "
        "sides. On 70S and at 0.001 neither changes r by more than 0.01."
    ),
    "denovo": (
        "As above, at most 24 iterations. `symmetry after` is the iteration from which D7 "
        "is imposed: at 0 it fixes axes before there is a structure to have them, which "
        "for seed 2 ends in a wrong optimum; four starts ranked by particles held out "
        "find a right one there, and so does every run that begins without symmetry and "
        "finds the axes on its average. Without symmetry r is 0.77 here (table above). A wrong "
        "symmetry shows: at 0.003 the average agrees with its least alike C5 copy by an FSC of "
        "0.55 when C5 is imposed, with copies of a symmetry it has not by 0.53 and with D7's by "
        "0.78 (`symmetry agreement`, `by chance`), and the run ends with a warning. At 0.001 the "
        "average is a ring until its symmetry is imposed, and the warning says that it shows none. "
        "The last table is with folds and sharp posteriors, but for its first row. "
        "GroEL `y` is turned about the tilt axis only, tilt range +-40 degrees. Seeds 2 and 3 of "
        "GroEL with 70S ran beside other work, which trebled their CPU times."
    ),
    "ribosome": (
        "40 in-cell ribosomes. Shares of particles within 20 degrees of the experts' poses after 1 "
        "and 4 iterations (standard error 8 %). With one common average (folds 1) they flatter: "
        "every particle sees its own noise. With 8 folds, and no previous pose as a candidate "
        "(keep previous 0), they are honest. Random starts: after removal of one global rotation, "
        "with sharp posteriors while poses are explored (timed on a busy machine). "
        "The last row has eight of them, ranked by particles held out: they end alike "
        "(averages correlate by 0.9), none near the experts' poses, so it is the search "
        "that does not get there, not the choice of a start. The experts' optimum is the "
        "better one by 4 to 8 nats per particle of exhaustive likelihood (FAML's rows "
        "differ in keep previous and cannot be compared). RELION 3.1, from nothing on the same "
        "files (`--denovo_3dref --healpix_order 1 --oversampling 1 --offset_range 6 --offset_step "
        "2 --ini_high 80`, with and without `--norm --scale`), ends both times in its eighth "
        "iteration with `zero sum of weights`, 5 % of the particles within 20 degrees, FSC >= 0.5 "
        "to shell 3 after three iterations. Half the particles drawn anew in each of 24 "
        "iterations (mini-batches) reach 1 to 2 nats per particle more than plain runs, and no "
        "more of the experts' poses. Masks (seeds 2 and 3): the sphere explains held-out particles "
        "by 1.6 (exhaustive) to 2.5 (FAML) nats better than none, the outline of `auto` by up to "
        "2 more; FSC 0.76, 0.77 and 0.81 on average over shells 1 to 8. Poses are found as well "
        "without."
    ),
    "snr": (
        "Of 60 simulated particles, from all their pairs at the true poses (`faml snr`). In white "
        "noise before the wedge, through a tilt series of the subtomogram as it is."
    ),
    "scout": (
        "Random starts, shifts to 6 voxels, one thread. `share left` of the shifts are correlated "
        "with all shells; `nats lost` is what the others would have added to a particle's log "
        "posterior, summed over all poses."
    ),
    "exhaustive": (
        "`nats rms` is the difference between the quadrature (band limit L, radii per shell) and "
        "the Cartesian sum of Eq. 15 over 400 poses near the best, up to a constant; rescoring "
        "removes it. The floor is the inverse FFTs alone. The last tables are shares of one "
        "iteration at 64^3, r_max 12, and RELION 3.1 on the same particles."
    ),
    "speed": "Errors are relative to an oracle in double precision.",
    "memory": "",
    "pack": "Reading all particles one after the other, by one thread, with a table of 25 columns; "
    "`loose` are MRC files, the rest packs (`faml pack`). Memory: what an open data set keeps "
    "of each particle. `cold`: out of the page cache, from a local disk, which gave so many "
    "megabytes; `first`: in the page cache, but not read by this process before, so that "
    "checksums are looked at; `warm`: again. `by folds` visits one fifth of the particles after "
    "the other, `in turns` blocks of the fifths in turns: it matters only where a pack is "
    "larger than the page cache. On a machine that did other work; CPU seconds are the steadier "
    "numbers. Boxes of 16^3 are read 14 to 23 times faster from a pack in single precision than "
    "from loose files. Of 64^3 the bytes themselves and their checksums take most of the time: "
    "2 times faster cold, 4 times warm, and no faster when first read from the page cache. Half "
    "precision takes half the space but no less time. Opening a pack reads no volume, so it is "
    "faster by orders of magnitude.",
    "demo": "Wall time of the whole command in fresh processes; cold means an empty kernel cache.",
    "faults": (
        "SIGKILL at random instants of small runs (12^3, six particles, four iterations; plain, "
        "with half-sets, with two starts), resumed until they end. `kept when killed` counts what "
        "was on disk. Checkpoint, maps and tables must then be, bit by bit, those of a run that "
        "nobody killed."
    ),
    "fuzz": (
        "Whole small files of every kind, broken by flipped bytes, cuts, repeats, splices, "
        "numbers at the limits, exchanged words and lines, and, of HDF5, objects of other shapes "
        "and types, links and storage elsewhere. Each must be `read` or `refused` in a sentence, "
        "within 10 CPU seconds and 64 MiB; anything else is a finding. `seconds` are wall time "
        "beside other work."
    ),
}
HEADS = {"cpu_s_per_particle_iteration": "CPU s per particle and iteration"}


def cell(value: Any) -> str:
    """One entry of a table."""
    if value is None:
        return ""
    if isinstance(value, float) and value and abs(value) < 1e-3:
        return f"{value:.1e}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return " ".join(cell(v) for v in value)
    return str(value)


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Rows as Markdown; columns that are empty throughout are left out."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    names = [n for n in names if any(row.get(n) not in (None, "") for row in rows)]
    lines = ["| " + " | ".join(HEADS.get(n, n.replace("_", " ")) for n in names) + " |"]
    lines.append("|" + "---|" * len(names))
    lines += ["| " + " | ".join(cell(row.get(n)) for n in names) + " |" for row in rows]
    return lines


def main() -> None:
    """One section per file."""
    lines = ["# Bench results", "", "Generated by `python bench/tables.py`.", ""]
    for name, title in TITLES.items():
        path = HERE / "results" / f"{name}.json"
        if not path.is_file():
            continue
        report = json.loads(path.read_text())
        versions = ", ".join(f"{k} {v}" for k, v in report["versions"].items())
        lines += [f"## {title}", "", f"`{report['command']}`", ""]
        lines += [INTRODUCTIONS[name], ""] if INTRODUCTIONS[name] else []
        # Rows of another kind are another table.
        for _, rows in groupby(report["rows"], key=tuple):
            lines += [*table(list(rows)), ""]
        lines += [f"{report['cores']} cores {report['machine']}; {versions}.", ""]
    (HERE / "results.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
