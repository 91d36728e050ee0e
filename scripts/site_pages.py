"""mkdocs hook: the site has the repository's own tree, so that a link works here and there.

Pages are the Markdown files that stand beside code, too. A link to a folder leads to its README, a
link to any other file (code, JSON, the notebook) to a page that shows it.
"""

import json
import re
from pathlib import Path
from posixpath import dirname, join, normpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
PAGES = ("*.md", "configs/*.md", "docs/**/*.md", "gradopt_ds/**/*.md", "tests/**/*.md")
ASSETS = ("docs/images/*.png", "docs/images/*.svg", "docs/site.css")
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)(?=[)#])")
LANGUAGES = {".py": "python", ".json": "json", ".sh": "bash", ".toml": "toml", ".yml": "yaml"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Take pages and images from all over the repository, and make pages of linked files."""
    for file in list(files):
        if file.src_dir == config.docs_dir:
            files.remove(file)
    pages = paths_of(PAGES)
    for path in [*pages, *paths_of(ASSETS)]:
        files.append(File(path, str(ROOT), config.site_dir, config.use_directory_urls))
    linked = {
        target for path in pages for target in targets(path, (ROOT / path).read_text()) if target
    }
    for path in sorted(linked - set(pages)):
        if path.endswith(".md") and (ROOT / path.removesuffix(".md")).is_file():
            files.append(File.generated(config, path, content=shown(path.removesuffix(".md"))))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to folders and files to the pages that stand for them."""
    return LINK.sub(lambda link: target_of(page.file.src_uri, link[1]), markdown)


def paths_of(patterns: tuple[str, ...]) -> list[str]:
    """Return the repository's files that match, without those that tools leave behind."""
    paths = {path.relative_to(ROOT) for pattern in patterns for path in ROOT.glob(pattern)}
    return sorted(path.as_posix() for path in paths if not path.parts[0].startswith("."))


def targets(page: str, text: str) -> list[str]:
    """Return the files, from the root, that a page's links lead to."""
    return [normpath(join(dirname(page), target_of(page, link[1]))) for link in LINK.finditer(text)]


def target_of(page: str, link: str) -> str:
    """Return where a relative link of a page leads on the site."""
    path = ROOT / normpath(join(dirname(page), link))
    if path.is_dir():
        return link.rstrip("/") + "/README.md"
    if path.is_file() and path.suffix not in (".md", ".png", ".svg"):
        return link + ".md"
    return link


def shown(path: str) -> str:
    """Write a page that shows a file."""
    text = (ROOT / path).read_text()
    if path.endswith(".ipynb"):
        return "\n\n".join(map(cell_of_notebook, json.loads(text)["cells"]))
    language = LANGUAGES.get(Path(path).suffix, "text")
    head = "---\nsearch:\n  exclude: true\nhide: [toc]\n---\n"
    return f"{head}# {path}\n\n{fenced(language, text)}"


def cell_of_notebook(cell: dict[str, list[str]]) -> str:
    """Write a cell and the text that it printed."""
    source = "".join(cell["source"])
    if str(cell["cell_type"]) == "markdown":
        return source
    outputs: list[dict[str, list[str]]] = cell["outputs"]  # type: ignore[assignment]
    printed = "".join("".join(output.get("text", [])) for output in outputs)
    return fenced("python", source) + ("\n\n" + fenced("text", printed) if printed else "")


def fenced(language: str, text: str) -> str:
    """Write a code block; its fence is longer than any in the text."""
    return f"``````{language}\n{text.rstrip()}\n``````"
