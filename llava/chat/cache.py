"""`aot cache`: the encoded videos on the disk, what they are of and when they were used."""

import argparse
import time

from aot_cli.parser import Parser, cache_folder
from llava.chat.answer import printable
from llava.chat.options import command
from llava.chat.terminal import Terminal
from llava.video_cache import VideoCache


def add_options(parser: Parser) -> None:
    folder = "folder of --cache (default: ~/.cache/aot)"
    parser.add_argument("folder", nargs="?", type=cache_folder, default="auto", metavar="DIR", help=folder)
    parser.add_argument("--clear", action="store_true", help="delete what is there; other files stay")


@command
def execute(options: argparse.Namespace, terminal: Terminal) -> None:
    """One line a video, what was used last first."""
    cache = VideoCache(options.folder, most_bytes=0)
    entries = cache.entries()
    count, size = len(entries), sum(entry.size for entry in entries) / 1e6
    told = f"{count} video{'s' * (count != 1)}, {size:.1f} MB in {options.folder}"
    if options.clear:
        cache.clear()
        terminal.write(f"deleted {told}")
        return
    for entry in entries:
        facts = entry.about()
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
        held = "kept tokens" if "settings" in facts else "features"
        frames = len(facts["video"]["times"]) if facts else 0
        path = printable(facts.get("path", "cannot be read"))
        terminal.write(f"{used} {entry.size / 1e6:8.1f} MB {frames:5} frames  {held:<11}  {path}")
    terminal.write(told)
