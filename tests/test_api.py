"""The whole job through Python: outputs, resuming, interruptions, bad input."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace

import mrcfile
import numpy as np
import pytest
from phantoms import blobs, simulated
from runs import BOX, EM, SEARCH, VOXEL_ANGSTROM, assert_states_equal, settings, write_folder

import faml
from faml import api, run_log
from faml.config import build_config, config_from_toml
from faml.em.loop import EmRun
from faml.errors import (
    CheckpointError,
    ConfigurationError,
    FamlError,
    InputDataError,
    OutputError,
)
from faml.io.checkpoint import HDF5Checkpoint, read_run
from faml.io.mrc import write_volume
from faml.io.star import read_star


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("particles"))


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """Four iterations at one go, one thread."""
    return faml.run(
        folder, tmp_path_factory.mktemp("whole") / "run", threads=1, **settings(iterations=4)
    )


def results(directory):
    """Bytes of everything that must not depend on threads or interruptions."""
    star = directory / "particles.star"
    text = star.read_text().replace(str(directory), "RUN")
    maps = sorted(directory.glob("class_*.mrc"))
    return text, [np.array(mrcfile.read(path)) for path in maps]


def assert_same_results(a, b):
    assert_states_equal(read_run(a / "run.h5").state, read_run(b / "run.h5").state)
    (star, maps), (other_star, other_maps) = results(a), results(b)
    assert star == other_star
    for mine, theirs in zip(maps, other_maps, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_output_directory_is_complete(whole, folder):
    directory = whole.directory
    names = {path.name for path in directory.iterdir()}
    assert names == {
        ".lock", "class_001.mrc", "config.toml", "orientations.png", "particles.star",
        "report.html", "run.h5", "run.log", "slices", "slices.png", "wedge.mrc",
    }  # fmt: skip
    pictures = sorted(path.name for path in (directory / "slices").iterdir())
    assert pictures == [f"iteration_{i:03d}.png" for i in range(5)]
    with mrcfile.open(whole.maps[0]) as file:
        assert file.voxel_size.x == pytest.approx(VOXEL_ANGSTROM)
        np.testing.assert_array_equal(file.data, whole.state.model.volumes[0])
    images = [str(path) for path in sorted(folder.iterdir())]
    assert list(read_star(whole.star).particles["rlnImageName"]) == images
    assert config_from_toml((directory / "config.toml").read_text()) == whole.config
    log = (directory / "run.log").read_text()
    assert all(f"iteration {i}: log-likelihood" in log for i in range(5))
    assert "occupancies 1.000" in log
    assert "stopped after 4 iterations" in log


def test_stored_paths_are_absolute(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder.parent)
    result = faml.run(folder.name, tmp_path / "run", **settings(iterations=0))
    assert result.config.data.inputs == (str(folder),)
    monkeypatch.chdir(tmp_path)
    assert faml.resume("run", iterations=1).state.iteration == 1


def test_logging_is_left_as_it_was(whole):
    logger = logging.getLogger("faml")
    assert not any(isinstance(h, logging.FileHandler) for h in logger.handlers)
    assert whole.directory.is_dir()


@pytest.mark.parametrize("threads", [(1, 2), (2, 1)])
def test_two_and_two_iterations_equal_four(whole, folder, tmp_path, threads):
    """Bitwise, whatever the number of threads (issue: N + N resumed equals 2N)."""
    directory = tmp_path / "run"
    faml.run(folder, directory, threads=threads[0], **settings(iterations=2))
    result = faml.resume(directory, iterations=4, threads=threads[1])
    assert_same_results(whole.directory, directory)
    assert_states_equal(result.state, whole.state)
    stored = config_from_toml((directory / "config.toml").read_text())
    assert (stored.em.iterations, stored.threads) == (4, threads[1])
    assert "resumed after iteration 2" in (directory / "run.log").read_text()


def test_a_run_does_not_depend_on_threads(folder, tmp_path):
    em = {"iterations": 2, "classes": 2}
    for threads in (1, 3):
        faml.run(folder, tmp_path / str(threads), threads=threads, **settings(**em))
    assert_same_results(tmp_path / "1", tmp_path / "3")


def test_resuming_a_finished_run_changes_nothing(whole, folder, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(whole.directory, directory)
    seen = []
    result = faml.resume(directory, on_state=lambda state, _: seen.append(state))
    assert seen == []
    assert_states_equal(result.state, whole.state)
    assert faml.resume(directory, iterations=1).state.iteration == 4


def test_converged_run_goes_on_only_if_asked(whole, folder, tmp_path):
    directory = tmp_path / "run"
    faml.run(folder, directory, **settings(iterations=2))
    path = directory / "run.h5"
    stored = read_run(path)
    config = build_config(**settings(iterations=9), output=str(directory))
    config = config.model_copy(update={"data": stored.config.data})
    particles = api.open_particles(config.data, 0).particles
    HDF5Checkpoint(path, config, particles).save(replace(stored.state, stop_reason="converged: x"))
    assert faml.resume(directory).state.iteration == 2
    assert faml.resume(directory, iterations=4).state.iteration == 4
    assert_same_results(whole.directory, directory)


def test_ready_configuration_and_generator(whole, folder, tmp_path):
    config = build_config(
        **settings(iterations=4) | {"data": whole.config.data.model_dump()},
        output=str(tmp_path / "run"),
    )
    assert_states_equal(api.run_config(config).state, whole.state)
    particles = api.open_particles(config.data, config.em.seed).particles
    states = list(faml.iterate(particles, config))
    assert [state.iteration for state in states] == [0, 1, 2, 3, 4]
    assert_states_equal(states[-1], read_run(whole.directory / "run.h5").state)
    (last,) = faml.iterate(particles, config, resume_from=states[3])
    assert_states_equal(last, states[4])


def test_finest_resolution_limits_the_shell(folder, tmp_path):
    extent = BOX * VOXEL_ANGSTROM
    result = faml.run(
        folder, tmp_path / "run", max_resolution_angstrom=extent / 5, **settings(iterations=0)
    )
    assert result.config.em.max_shell == 5
    for wrong in (0.0, -3.0, extent):
        with pytest.raises(ConfigurationError, match="finest resolution"):
            faml.run(folder, tmp_path / "no", max_resolution_angstrom=wrong, **settings())
    with pytest.raises(ConfigurationError, match="found both"):
        faml.run(folder, tmp_path / "no", max_resolution_angstrom=40.0, **settings(max_shell=5))
    assert not (tmp_path / "no").exists()


# ---------------------------------------------------------------------- starts


def test_start_from_a_reference(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_volume(tmp_path / "reference.mrc", blobs(BOX), VOXEL_ANGSTROM)
    result = faml.run(folder, "run", **settings(iterations=1, start="reference.mrc"))
    assert result.config.em.start == str(tmp_path / "reference.mrc")
    assert result.warnings == ()
    monkeypatch.chdir(folder)
    assert faml.resume(result.directory, iterations=2).state.iteration == 2


def test_a_symmetry_that_is_not_there_is_doubted_where_users_look(folder, tmp_path):
    """Also where a run ends before it is imposed, and after a resume."""
    result = faml.run(folder, tmp_path / "run", **settings(iterations=1, symmetry="C4"))
    (doubt,) = (each for each in result.warnings if "Nothing speaks for" in each)
    assert doubt.startswith("class 1: before C4 was imposed, the average did not show it")
    assert doubt in (tmp_path / "run" / "run.log").read_text()
    assert len(result.state.symmetry_seen) == 1
    again = faml.resume(tmp_path / "run", iterations=2)
    assert any("Nothing speaks for C4" in each for each in again.warnings)


def test_reference_of_another_voxel_size_is_warned_about(folder, tmp_path):
    path = tmp_path / "reference.mrc"
    write_volume(path, blobs(BOX), 2.0 * VOXEL_ANGSTROM)
    result = faml.run(folder, tmp_path / "run", **settings(iterations=0, start=str(path)))
    (warning,) = result.warnings
    assert "20 Angstrom per voxel, the particles have 10" in warning
    assert warning in (tmp_path / "run" / "run.log").read_text()


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        (np.ones((BOX,) * 3, np.float32), "constant"),
        (blobs(BOX + 2), "expected the particles' box"),
    ],
)
def test_unusable_reference(folder, tmp_path, volume, message):
    path = tmp_path / "reference.mrc"
    write_volume(path, volume, VOXEL_ANGSTROM)
    with pytest.raises(InputDataError, match=message):
        faml.run(folder, tmp_path / "run", **settings(start=str(path)))
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"em": {"classes": 8}}, ConfigurationError),
        ({"em": {"start": "poses"}}, InputDataError),
        ({"em": {"start": "nonsense"}}, ConfigurationError),
        ({"em": {"start": "absent.mrc"}}, InputDataError),
        ({"search": {"strategy": "nonsense"}}, ConfigurationError),
        ({"search": {"proposal": "nonsense"}}, ConfigurationError),
        ({"search": {"max_shift_voxels": 8.0}}, ConfigurationError),
        ({"search": {"local_angle_deg": 10.0}}, InputDataError),
        ({"data": {"tilt_range_deg": (60.0, -60.0)}}, ConfigurationError),
        ({"data": {"tilt_range_deg": None}}, InputDataError),
        ({"data": {"particle_diameter_angstrom": 1e4}}, ConfigurationError),
        ({"preset": "nonsense"}, ConfigurationError),
        ({"threads": 0}, ConfigurationError),
        ({"nonsense": 1}, ConfigurationError),
    ],
)
def test_faults_are_found_before_anything_is_written(folder, tmp_path, changes, error):
    values = settings(iterations=0)
    for key, value in changes.items():
        values[key] = values[key] | value if isinstance(value, dict) else value
    with pytest.raises(error):
        faml.run(folder, tmp_path / "run", **values)
    assert list(tmp_path.iterdir()) == []


def test_faults_of_paths(whole, folder, tmp_path):
    with pytest.raises(InputDataError, match="does not exist"):
        faml.run(tmp_path / "absent", tmp_path / "run", **settings())
    with pytest.raises(ConfigurationError):
        faml.run([], tmp_path / "run", **settings())
    with pytest.raises(OutputError, match=r"holds another run .*faml resume"):
        faml.run(folder, whole.directory, **settings())
    with pytest.raises(ConfigurationError, match="-o DIR"):
        api.run_config(build_config(data={"inputs": (str(folder),)}))
    with pytest.raises(CheckpointError, match="found none"):
        faml.resume(tmp_path / "absent")
    occupied = tmp_path / "file"
    occupied.write_text("")
    with pytest.raises(OutputError, match="cannot be used"):
        faml.run(folder, occupied, **settings())


def test_resume_refuses_other_particles(tmp_path):
    folder = write_folder(tmp_path / "particles", count=3)
    faml.run(folder, tmp_path / "run", **settings(iterations=0))
    first = sorted(folder.iterdir())[0]
    shutil.copy(first, folder / "z.mrc")
    with pytest.raises(CheckpointError, match=r"expected the 3 particles .* found 4"):
        faml.resume(tmp_path / "run", iterations=1)
    (folder / "z.mrc").unlink()
    for path in folder.iterdir():
        write_volume(path, blobs(BOX), 1.5 * VOXEL_ANGSTROM)
    with pytest.raises(CheckpointError, match=r"voxel size of 10 .* found 15"):
        faml.resume(tmp_path / "run", iterations=1)
    first.unlink()
    with pytest.raises(FamlError):
        faml.resume(tmp_path / "run", iterations=1)


def test_resume_validates_new_settings(whole):
    with pytest.raises(ConfigurationError, match="iterations"):
        faml.resume(whole.directory, iterations=-1)
    with pytest.raises(ConfigurationError, match="threads"):
        faml.resume(whole.directory, threads=0)


def test_directory_that_cannot_hold_a_log(whole, tmp_path):
    shutil.copytree(whole.directory, tmp_path / "run")
    (tmp_path / "run" / "run.log").unlink()
    (tmp_path / "run" / "run.log").mkdir()
    with pytest.raises(OutputError, match="cannot be written to"):
        faml.resume(tmp_path / "run", iterations=5)


@pytest.mark.parametrize("when", [0, 2])
def test_interrupted_run_leaves_results_and_continues_bitwise(whole, folder, tmp_path, when):
    def interrupt(state, _):
        if state.iteration == when:
            raise KeyboardInterrupt

    directory = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt, match=f"iteration {when} is kept.*faml resume"):
        faml.run(folder, directory, threads=2, on_state=interrupt, **settings(iterations=4))
    state = read_run(directory / "run.h5").state
    assert state.iteration == when
    np.testing.assert_array_equal(mrcfile.read(directory / "class_001.mrc"), state.model.volumes[0])
    assert (directory / "particles.star").exists()
    assert "interrupted" in (directory / "run.log").read_text()
    faml.resume(directory)
    assert_same_results(whole.directory, directory)


def test_interrupted_in_the_first_pass(folder, tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="before the first iteration"):
        faml.run(folder, tmp_path / "run", progress=interrupt, **settings())
    assert faml.run(folder, tmp_path / "run", **settings(iterations=0)).star.exists()


def test_full_disk_in_the_middle_then_resume(whole, folder, tmp_path, monkeypatch):
    import faml.io.checkpoint as module

    real = module._write_state

    def fail(file, state):
        if state.iteration == 3:
            raise OSError(28, "No space left on device")
        real(file, state)

    directory = tmp_path / "run"
    monkeypatch.setattr(module, "_write_state", fail)
    with pytest.raises(CheckpointError, match="iteration 2 is kept"):
        faml.run(folder, directory, **settings(iterations=4))
    assert "iteration 2 is kept" in (directory / "run.log").read_text()
    monkeypatch.setattr(module, "_write_state", real)
    faml.resume(directory)
    assert_same_results(whole.directory, directory)


def test_traceback_of_a_bug_goes_to_the_log(folder, tmp_path, monkeypatch):
    def bug(*_, **__):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(EmRun, "finish", bug)
    with pytest.raises(ZeroDivisionError):
        faml.run(folder, tmp_path / "run", **settings(iterations=0))
    log = (tmp_path / "run" / "run.log").read_text()
    assert "unexpected failure" in log
    assert "Traceback" in log


def test_log_on_a_full_disk_is_silent(tmp_path, capsys):
    with run_log.logged(tmp_path):
        (handler,) = [
            h for h in logging.getLogger("faml").handlers if isinstance(h, logging.FileHandler)
        ]
        stream = handler.stream

        class Full:
            def write(self, _):
                raise OSError(28, "No space left on device")

            def flush(self):
                raise OSError(28, "No space left on device")

            def close(self):
                stream.close()

        handler.stream = Full()
        logging.getLogger("faml").warning("lost")
    assert capsys.readouterr().err == ""


def test_fallbacks_and_empty_classes_are_said(folder, caplog):
    config = build_config(**settings() | {"data": {"inputs": (str(folder),)} | settings()["data"]})
    dataset = api.open_particles(config.data, 0)
    particles, _ = simulated(n=16, count=3, seed=1)
    state = next(EmRun(particles, build_config(em=EM, search=SEARCH)).states())
    found = replace(state.assignments, fallbacks=np.array([True, False, True]))
    with caplog.at_level(logging.INFO, logger="faml"):
        run_log.log_state(replace(state, assignments=found, empty_classes=(0,)), dataset, 0.999)
    assert "2 particles had no candidate pose and kept their previous one" in caplog.text
    assert "class 1 is empty and keeps its average" in caplog.text


@pytest.mark.parametrize("place", ["", "sub/.."])
def test_results_never_land_on_the_input(folder, tmp_path, place):
    """`faml run particles.star -o .` would overwrite the STAR file it reads."""
    inputs = tmp_path / "in"
    shutil.copytree(folder, inputs)
    (inputs / "sub").mkdir()
    before = sorted(p.name for p in inputs.rglob("*"))
    with pytest.raises(OutputError, match="holds the input"):
        faml.run(inputs, inputs / place, **settings(iterations=1))
    assert sorted(p.name for p in inputs.rglob("*")) == before


def test_home_directory_is_understood(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(folder, tmp_path / "boxes")
    result = faml.run("~/boxes/*.mrc", "~/run", **settings(iterations=0))
    assert result.directory == tmp_path / "run"


def test_log_and_configuration_say_what_was_run(whole):
    log = (whole.directory / "run.log").read_text()
    for word in ("numba", "7 particles of 7", "voxel size 10", "tilt range", "seed 4", "radius"):
        assert word in log
    text = (whole.directory / "config.toml").read_text()
    assert "# particle_diameter_angstrom = 96.0" in text
    assert config_from_toml(text).em.seed == 4


def test_poses_that_are_not_used_are_said(whole, tmp_path):
    result = faml.run(whole.star, tmp_path / "run", **settings(iterations=0))
    assert any("--start poses" in warning for warning in result.warnings)
    again = faml.run(whole.star, tmp_path / "again", **settings(iterations=0, start="poses"))
    assert not any("poses" in warning for warning in again.warnings)


def test_results_are_no_particles(whole, tmp_path):
    with pytest.raises(InputDataError, match=r"found results of faml; give its particles\.star"):
        faml.run(whole.directory, tmp_path / "run", **settings())


def test_resume_takes_the_checkpoint_too(whole):
    assert api.resume(whole.directory / "run.h5").state.iteration == whole.state.iteration


def test_iterate_refuses_at_once(folder):
    particles, _ = simulated(n=16, count=2, seed=1)
    config = build_config(em={"start": "nowhere.mrc"})
    with pytest.raises(ConfigurationError, match="unknown start"):
        api.iterate(particles, config)


def test_picture_that_cannot_be_written_does_not_stop_a_run(folder, tmp_path, monkeypatch, caplog):
    def fails(*_, **__):
        raise OutputError("disk full")

    monkeypatch.setattr("faml.results.write_class_slices", fails)
    with caplog.at_level(logging.WARNING, logger="faml"):
        result = faml.run(folder, tmp_path / "run", **settings(iterations=1))
    assert result.star.is_file()
    assert "no picture of iteration 1: disk full" in caplog.text


def test_local_search_begins_at_the_input_poses():
    assert build_config(search={"local_angle_deg": 9.0}).em.start == "poses"
    chosen = build_config(search={"local_angle_deg": 9.0}, em={"start": "random"})
    assert chosen.em.start == "random"


def test_package_has_nothing_else():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = faml.nonsense
