"""The manual: its site builds without a network, its commands exist, and its examples run."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer

from faml import conventions
from faml.cli.app import app, main

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LANGUAGES = ("sh", "python")
_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$", re.M | re.S
)
_NOT_RUN = re.compile(r"<!-- not run: (?P<reason>[^>]*\S) -->\n(<!--[^>]*-->\n)*\Z")
_OPERATORS = {"&&", "||", ";", "|", "&", ">", ">>", "<", "(", ")", "\n"}
_BEFORE_COMMANDS = {"then", "else", "do", "if", "!", *_OPERATORS}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str
    reason: str
    """Why it is not run; empty if it is."""

    def __str__(self):
        return f"{self.page}:{self.line}"


def blocks_of(path):
    text = path.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        if match["language"] in LANGUAGES:
            marked = _NOT_RUN.search(text[: match.start()])
            line = text.count("\n", 0, match.start()) + 1
            page = path.relative_to(ROOT).as_posix()
            reason = marked["reason"] if marked else ""
            found.append(Block(page, line, match["language"], match["text"], reason))
    return found


BLOCKS = {path: blocks_of(path) for path in PAGES}
EVERY = [block for blocks in BLOCKS.values() for block in blocks]
RUN = [path for path, blocks in BLOCKS.items() if any(not block.reason for block in blocks)]


def faml_commands(text):
    """Arguments of every call of faml in a shell script."""
    tokens, calls = [], []
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        tokens += [*lexer, "\n"]
    at_start, call = True, None
    for token in tokens:
        if token in _OPERATORS:
            call = None
        elif call is not None:
            call.append(token)
        elif at_start and token.rpartition("/")[2] == "faml":
            call = []
            calls.append(call)
        at_start = token in _BEFORE_COMMANDS
    return calls


@cache
def parser():
    """The parser of the command line itself."""
    return typer.main.get_command(app)


def accept(arguments):
    """Let the real parser look at a command line, which is not carried out."""
    group = parser()
    name, *rest = [re.sub(r"\$\{?\w+\}?", "1", argument) for argument in arguments]
    command = group.commands.get(name)
    if command is None:
        raise ValueError(f"faml has no command {name}")
    command.make_context(f"faml {name}", rest)


def known_options():
    group = parser()
    every = [*group.commands.values(), group]
    found = {o for c in every for p in c.params for o in (*p.opts, *p.secondary_opts)}
    return {name for name in found if name.startswith("-")} | {"--help"}


# ---------------------------------------------------------------------- the tools of this file


def test_commands_are_found_in_scripts():
    script = (
        "# faml no\npython -m venv x && .venv/bin/faml demo\nif [ -e a ]; then\n  faml resume run "
        "--threads 2\nfi\nfaml run 'a b/*.mrc' \\\n  -o out  # a comment\necho faml run\n"
    )
    assert faml_commands(script) == [
        ["demo"], ["resume", "run", "--threads", "2"], ["run", "a b/*.mrc", "-o", "out"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    "line",
    ["run a.star -o x --no-such-option", "run a.star", "fly", "run a.star -o x --threads many",
     "inspect", "demo surplus"],
)  # fmt: skip
def test_wrong_command_lines_are_not_accepted(line):
    with pytest.raises(Exception, match=r"\S"):
        accept(line.split())
    accept(["run", "a.star", "-o", "x", "--threads", "$N", "--tilt-range", "-60", "60"])


def test_marks_are_read(tmp_path):
    page = ROOT / "docs" / "x.md"
    text = (
        "```sh\na\n```\n<!-- not run: takes long -->\n<!-- mark -->\n```python\nb\n```\n"
        "<!-- not run: far away -->\n\n```sh\nc\n```\n```text\nd\n```\n"
    )

    class Page(type(page)):
        def read_text(self, encoding):
            return text

    found = blocks_of(Page(page))
    assert [(b.line, b.language, b.text, b.reason) for b in found] == [
        (1, "sh", "a\n", ""), (6, "python", "b\n", "takes long"), (11, "sh", "c\n", ""),
    ]  # fmt: skip


# ---------------------------------------------------------------------- examples


@pytest.mark.parametrize("block", EVERY, ids=str)
def test_every_command_of_the_manual_exists(block):
    if block.language == "python":
        compile(block.text, str(block), "exec")
        return
    for arguments in faml_commands(block.text):
        try:
            accept(arguments)
        except Exception as error:  # noqa: BLE001 - what typer raises depends on its version
            pytest.fail(f"{block}: faml {' '.join(arguments)}: {error or type(error)}")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_options_in_the_text_exist(path):
    text = path.read_text(encoding="utf-8")
    if path.name == "results.md":
        pytest.skip("written by faml compare; its commands are those of their time")
    known = known_options()
    outside = "".join(_FENCE.sub("", text))
    relion = {"--denovo_3dref"}
    for span in re.findall(r"`([^`\n]+)`", outside):
        for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", span):
            assert option in known | relion, f"{path.name}: `{span}`"


def test_manual_is_tried_out():
    assert sum(not block.reason for block in EVERY) > 20
    assert {"tutorial.md", "resume.md", "relion.md"} <= {path.name for path in RUN}


def test_the_packaged_model_has_a_name(tmp_path, monkeypatch, capsys):
    """Unless a file of that name is there."""
    monkeypatch.chdir(tmp_path)
    command = ["simulate", "groel", "--box", "16", "--voxel-size", "15", "--count", "1", "-q"]
    with pytest.raises(SystemExit) as caught:
        main([*command, "-o", "out"])
    assert caught.value.code == 0
    assert "groel_1oel.mrc" in (tmp_path / "out" / "simulation.toml").read_text()
    (tmp_path / "groel").write_text("no model")
    with pytest.raises(SystemExit) as caught:
        main([*command, "-o", "other"])
    assert caught.value.code == 3
    assert "groel" in capsys.readouterr().err


def test_the_hint_after_simulation_is_a_whole_command(tmp_path, capsys):
    """Its diameter holds GroEL, which is some 150 Angstrom wide along its diagonal."""
    out = tmp_path / "a folder"
    command = ["simulate", "groel", "--box", "16", "--voxel-size", "15", "--count", "1", "--dark"]
    with pytest.raises(SystemExit):
        main([*command, "-o", str(out)])
    hint = capsys.readouterr().out.partition("next: faml ")[2]
    words = shlex.split(hint)
    accept(words)
    assert words[1] == str(out / "particles.star")
    assert 150 <= float(words[words.index("--particle-diameter") + 1]) <= 200
    assert words[-1] == "--invert"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_to_files_or_generated_pages(path, hooks):
    """Those of the README and of the first page to files alone, but where they say otherwise."""
    generated = {"cli.md", *hooks.api_pages()}
    for line in path.read_text(encoding="utf-8").splitlines():
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", line):
            if "://" in target:
                continue
            found = (path.parent / target).resolve()
            page = os.path.relpath(found, ROOT / "docs")
            if page in generated:
                assert "site only" in line, f"{path.name}: {target}"
            else:
                assert found.exists(), f"{path.name}: {target}"


def test_links_to_files_lead_to_pages_of_the_site(hooks):
    text = "[a](../ARCHITECTURE.md#b) [c](../bench/results.md) [d](../faml/conventions.py)"
    pages = "[a](architecture.md#b) [c](bench.md) [d](api/faml.md)"
    assert hooks.with_site_links(text, "index.md") == pages
    assert hooks.with_site_links(text.replace("../", "../../"), "howto/x.md") == pages.replace(
        "](", "](../"
    )


@pytest.mark.slow
@pytest.mark.parametrize("path", RUN, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_examples_run(path, tmp_path):
    here = Path(sys.executable).parent
    environment = os.environ | {
        "PATH": f"{here}{os.pathsep}{os.environ['PATH']}", "OPENBLAS_NUM_THREADS": "1",
        "MPLBACKEND": "agg",
    }  # fmt: skip
    for block in BLOCKS[path]:
        if block.reason:
            continue
        shell = ["bash", "-euo", "pipefail", "-c", block.text]
        command = (
            shell if block.language == "sh" else [sys.executable, "-W", "error", "-c", block.text]
        )
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
            timeout=1200,
        )  # fmt: skip
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"


@pytest.fixture
def hooks():
    """The module that makes generated pages."""
    for name in ("mkdocs", "latex2mathml"):
        pytest.importorskip(name, reason="the extra `docs` is not installed")
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs" / "site_hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_numbers_are_those_that_were_measured(hooks):
    """If not: python docs/site_hooks.py."""
    text = (ROOT / "docs" / "ribosomes.md").read_text(encoding="utf-8")
    assert text.count("<!-- ribosome:") == text.count("\n| --- |") == 3
    assert hooks.with_measured(text) == text
    assert hooks.with_measured(text.replace("0.96", "0.97", 1)) == text
    with pytest.raises(ValueError, match="found surprise"):
        hooks.with_measured("<!-- ribosome:surprise -->\n\n")


def test_conventions_are_those_of_the_code(hooks):
    text = hooks.conventions_list()
    terms = re.findall(r"^\*\*(.+)\*\*$", text, re.MULTILINE)
    assert {"Volumes", "Spectra", "Poses", "Euler angles", "Missing wedge", "RELION"} <= set(terms)
    assert len(re.findall(r"^:   ", text, re.MULTILINE)) == len(terms)
    words = " ".join(conventions.__doc__.split()[8:])
    assert re.sub(r"\*\*|^:   ", "", text, flags=re.MULTILINE).split() == words.split()


def test_command_line_page_has_everything(hooks):
    page = hooks.command_line_page()
    for name in parser().commands:
        assert f"\n## faml {name}\n" in page
    for option in known_options() - {"--help", "-h", "--version"}:
        assert option in page
    assert "MIN MAX" in page


# ---------------------------------------------------------------------- site


class Outside(HTMLParser):
    """What a page would load from elsewhere, and whether it has equations left over."""

    def __init__(self, text):
        super().__init__()
        self.loaded, self.tags = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.add(tag)
        source = values.get("src") or (values.get("href") if tag == "link" else None)
        canonical = tag == "link" and values.get("rel") == "canonical"
        if source and not canonical and re.match(r"(https?:)?//", source):
            self.loaded.append(source)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built manual."""
    pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=1200,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_site_needs_no_network(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert Outside(text).loaded == [], page.name
        assert 'class="arithmatex"' not in text
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//", sheet.read_text(encoding="utf-8"))
        assert "@import" not in sheet.read_text(encoding="utf-8")


@pytest.mark.slow
def test_site_has_equations_references_and_commands(site):
    theory = (site / "theory.html").read_text(encoding="utf-8")
    assert theory.count('display="block"') > 15
    assert theory.count('href="api/') > 40
    assert 'id="faml.em.maximization.maximise"' in (site / "api" / "em.html").read_text("utf-8")
    ribosomes = (site / "ribosomes.html").read_text(encoding="utf-8")
    assert ribosomes.count("<table>") == 3
    assert 'id="faml-convert"' in (site / "cli.html").read_text(encoding="utf-8")
