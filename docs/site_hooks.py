"""What the site needs beyond its pages: generated pages, equations as MathML, no outside links.

Loaded by ``mkdocs.yml``. Pages of modules and of the command line are made from the code, so they
cannot fall behind it. Run as a program, it puts measured numbers into ``ribosomes.md``.
"""

from __future__ import annotations

import ast
import html
import json
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
_MATH = re.compile(r'<(span|div) class="arithmatex">\s*\\([(\[])(.*?)\\[)\]]\s*</\1>', re.DOTALL)
_MEASURED = re.compile(r"<!-- ribosome:(\w+) -->\n\n(?:\|.*\n)*")
_COPIED = {
    "architecture.md": "ARCHITECTURE.md",
    "changelog.md": "CHANGELOG.md",
    "bench.md": "bench/results.md",
}
"""Pages that are files of the repository."""
_LAYERS = (
    ("faml", "From Python"),
    ("em", "Expectation maximisation"),
    ("strategies", "Strategies"),
    ("particles", "Particles"),
    ("transforms", "Transforms"),
    ("kernels", "Kernels"),
    ("metrics", "Measures"),
    ("costs", "Costs"),
    ("planning", "Planning"),
    ("io", "Files"),
    ("simulate", "Simulation"),
    ("compare", "Experiments"),
    ("report", "Pictures and report"),
    ("watch", "Watching a run"),
)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Pages of packages follow the page that lists them."""
    reference = next(part["Reference"] for part in config.nav or [] if "Reference" in part)
    last = reference.pop()
    reference += [page for page in api_pages() if page != "api/index.md"] + [last]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and the pictures that ``results.md`` shows."""
    for target, source in _COPIED.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, target, content=text))
    files.append(File.generated(config, "cli.md", content=command_line_page()))
    for target, text in api_pages().items():
        files.append(File.generated(config, target, content=text))
    for picture in sorted((ROOT / "experiments" / "results").glob("*/*.png")):
        target = picture.relative_to(ROOT).as_posix()
        files.append(File.generated(config, target, abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """What lies beside the repository's ``docs`` lies within the site."""
    markdown = with_site_links(markdown, page.file.src_uri)
    if page.file.src_uri == "results.md":
        return markdown.replace("](../experiments/", "](experiments/")
    return markdown.replace("<!-- text of faml/conventions.py -->", conventions_list())


def with_site_links(markdown: str, page: str) -> str:
    """Links to files of the repository, as those who read files follow them, lead to pages."""
    up = "../" * page.count("/")
    pages = {source: target for target, source in _COPIED.items()}
    for source, target in (pages | {"faml/conventions.py": "api/faml.md"}).items():
        markdown = markdown.replace(f"]({up}../{source}", f"]({up}{target}")
    return markdown


def conventions_list() -> str:
    """The module's text, terms and what is indented below them, as a list of definitions."""
    lines = (ast.get_docstring(_parsed("faml/conventions.py")) or "").splitlines()[2:]
    found: list[str] = []
    for line in lines:
        if line and not line.startswith(" "):
            found += ["", f"**{line}**", ""]
        elif found:
            first = found[-1] == ""
            found.append((":   " if first else "    ") + line.strip())
    return "\n".join(found)


def _parsed(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text(encoding="utf-8"))


def with_measured(markdown: str) -> str:
    """Text in which the table after ``<!-- ribosome:NAME -->`` is that of the present numbers."""

    def table(match: re.Match[str]) -> str:
        return f"<!-- ribosome:{match[1]} -->\n\n{ribosome_table(match[1])}\n"

    return _MEASURED.sub(table, markdown)


def on_page_content(content: str, page: Page, **_: Any) -> str:
    """Equations become MathML, which browsers draw without scripts."""

    def mathml(match: re.Match[str]) -> str:
        display = "block" if match[2] == "[" else "inline"
        return convert(html.unescape(match[3]).strip(), display=display)

    content = _MATH.sub(mathml, content)
    if 'class="arithmatex"' in content:
        raise ValueError(f"{page.file.src_uri}: an equation was not understood")
    return content


def ribosome_table(name: str) -> str:
    """A table of ``bench/results/ribosome.json``: ``average``, ``shares`` or ``random``."""
    text = (ROOT / "bench" / "results" / "ribosome.json").read_text(encoding="utf-8")
    rows = json.loads(text)["rows"]
    if name == "average":
        (row,) = (row for row in rows if row["start"] == "poses, 0 iterations")
        head = ["shell", *map(str, range(1, 9))]
        return _table(head, [["FSC", *(f"{value:.2f}" for value in row["fsc_1_8"])]])
    if name == "shares":
        chosen = [
            row
            for row in rows
            if (row["start"], row.get("diameter"), row.get("seed")) == ("poses", 300.0, 0)
            and "mask" not in row
        ]
        return _table(
            ["strategy", "candidates", "folds", "after 1 iteration", "after 4"],
            [
                [row["strategy"], row["proposal"], row["folds"], row["share_1"], row["share_4"]]
                for row in sorted(chosen, key=lambda row: -row["folds"])
            ],
        )
    if name == "random":
        chosen = [row for row in rows if row["start"] == "random" and row.get("starts", 1) == 1]
        return _table(
            ["strategy", "seed", "iterations", "share within 20 degrees"],
            [
                [row["strategy"], row["seed"], row["iterations"], row["share_last"]]
                for row in chosen
            ],
        )
    raise ValueError(f"expected a table of the ribosomes, found {name}")


def _table(head: list[str], rows: list[list[Any]]) -> str:
    if not rows:
        raise ValueError(f"expected rows for a table of {', '.join(head)}, found none")
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def command_line_page() -> str:
    """Every command with its arguments and options, from the parser itself."""
    import typer

    from faml.cli.app import app

    group: Any = typer.main.get_command(app)
    lines = ["# Command line", "", _plain(group.help), "", _plain(group.epilog), ""]
    for name in sorted(group.commands):
        command = group.commands[name]
        context = command.context_class(command, info_name=f"faml {name}")
        usage = " ".join(command.collect_usage_pieces(context))
        lines += [f"## faml {name}", "", _plain(command.help), ""]
        lines += ["```text", f"faml {name} {usage}", "```", ""]
        lines += ["| | what |", "|---|---|"]
        lines += [_parameter_row(item, context) for item in command.params]
        lines.append("")
    return "\n".join(lines)


def _parameter_row(item: Any, context: Any) -> str:
    # The one description that all versions of typer give in the same way.
    name, text = item.get_help_record(context) or (item.name, "")
    shown = _plain(text).replace("|", "\\|").replace("<", "&lt;")
    return f"| `{_plain(name)}` | {shown} |"


def _plain(text: str | None) -> str:
    return " ".join((text or "").split())


def api_pages() -> dict[str, str]:
    """A page per package, each with all modules that have something public."""
    modules: dict[str, list[str]] = {}
    for path in sorted((ROOT / "faml").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[-1] in ("__init__", "__main__") or parts[1] == "cli" or parts[-1][0] == "_":
            continue
        package = parts[1] if len(parts) > 2 else "faml"
        modules.setdefault(package, []).append(".".join(parts))
    titles = dict(_LAYERS)
    pages: dict[str, str] = {}
    rows = []
    for package in sorted(modules, key=_place):
        title = titles.get(package, package)
        options = "    options: { show_root_toc_entry: true, heading_level: 2 }"
        body = "\n\n".join(f"::: {name}\n{options}" for name in modules[package])
        pages[f"api/{package}.md"] = f"# {title}\n\n{body}\n"
        listed = ", ".join(f"[`{name}`][{name}]" for name in modules[package])
        rows.append(f"| [{title}]({package}.md) | {listed} |")
    pages["api/index.md"] = "\n".join([_API_HEAD, "| part | modules |", "|---|---|", *rows, ""])
    return pages


def _place(package: str) -> tuple[int, str]:
    order = [name for name, _ in _LAYERS]
    return (order.index(package) if package in order else len(order), package)


_API_HEAD = """# Python

[`faml.run`][faml.api.run], [`faml.resume`][faml.api.resume] and [`faml.iterate`][faml.api.iterate]
are the entry points; [`faml.api.RunResult`][] is what they leave. Settings are those of
[`faml.config`][]. The rest is described by the [architecture](../architecture.md), and everything
public is listed below. Conventions are on [one page](../conventions.md).
"""


if __name__ == "__main__":
    measured = ROOT / "docs" / "ribosomes.md"
    measured.write_text(with_measured(measured.read_text(encoding="utf-8")), encoding="utf-8")
