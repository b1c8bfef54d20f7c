"""Hooks of MkDocs: pages of the repository's root go into the site, and links to source files become their names.

The Markdown files are written for the repository, where README.md links to docs/ and docs/ links to the code. The site
has the same pages in another place and no code.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
# files of the repository's root, by their place in the site
PAGES = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "security.md": "SECURITY.md",
    "conduct.md": "CODE_OF_CONDUCT.md",
}
LINK = re.compile(r"(?P<text>!?\[[^\]]*\])\((?P<target>[^)#\s]+)(?P<anchor>#[^)]*)?\)")


def on_files(files, *, config):
    """Adds the pages of the root."""
    for place, source in PAGES.items():
        files.append(File.generated(config, place, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown, *, page, config, files):
    """Turns links that hold in the repository into links of the site."""
    place = page.file.src_uri
    source = PAGES.get(place, posixpath.join("docs", place))

    def link(match):
        target, anchor = match["target"], match["anchor"] or ""
        if "://" in target:
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        there = next((page for page, file in PAGES.items() if file == path), path.removeprefix("docs/"))
        if path.startswith("docs/") or path in PAGES.values():
            return f"{match['text']}({posixpath.relpath(there, posixpath.dirname(place) or '.')}{anchor})"
        return f"{match['text'][1:-1]} (`{path}`)"

    return LINK.sub(link, markdown)
