"""Fetches checkpoints and benchmark videos from the Hugging Face hub: `python -m llava.eval.download NAME…`.

Before anything is fetched it tells what each holds, under which licence, how large it is and how much of it is here
already, and asks. What was interrupted goes on with the same command; lmms-eval and the loader find the files.
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from rich.filesize import decimal

from aot_cli.main import handling
from aot_cli.parser import Parser


@dataclass(frozen=True)
class Source:
    """A repository on the hub. kind: "model" or "dataset"."""

    repository: str
    kind: str
    what: str
    revision: str | None = None


SOURCES = {
    "ov-7b": Source("lmms-lab/llava-onevision-qwen2-7b-ov", "model", "LLaVA-OneVision-7B"),
    "video-7b": Source("lmms-lab/LLaVA-Video-7B-Qwen2", "model", "LLaVA-Video-7B"),
    "videomme": Source("lmms-eval/Video-MME", "dataset", "Video-MME, 2700 questions"),
    "mvbench": Source("OpenGVLab/MVBench", "dataset", "MVBench, 20 tasks of 200 questions", "video"),
    "egoschema": Source("lmms-eval/egoschema", "dataset", "EgoSchema, 5031 questions, answers of 500"),
    "longvideobench": Source("longvideobench/LongVideoBench", "dataset", "LongVideoBench, 1337 questions"),
    "mlvu-dev": Source("sy1998/MLVU_dev", "dataset", "MLVU dev, 2174 questions"),
    "mlvu-test": Source("sy1998/MLVU_Test", "dataset", "MLVU test, 502 questions"),
    "videomme-v2": Source("MME-Benchmarks/Video-MME-v2", "dataset", "Video-MME-v2, 3200 questions"),
    "lvbench": Source("lmms-eval/LVBench", "dataset", "LVBench"),
    "tempcompass": Source("lmms-eval/TempCompass", "dataset", "TempCompass"),
    "mmvu": Source("lmms-eval/MMVU", "dataset", "MMVU"),
    "videoevalpro": Source("TIGER-Lab/VideoEval-Pro", "dataset", "VideoEval-Pro"),
    "cgbench": Source("CG-Bench/CG-Bench", "dataset", "CG-Bench"),
    "longtimescope": Source("Apollo-LMMs/LongTimeScope2", "dataset", "LongTimeScope"),
    "vinoground": Source("HanSolo9682/Vinoground", "dataset", "Vinoground, 2000 questions"),
}
GROUPS = {
    "checkpoints": ("ov-7b", "video-7b"),
    "benchmarks": ("mvbench", "egoschema", "longvideobench", "videomme", "mlvu-dev", "mlvu-test"),
    "more": (
        "videomme-v2", "lvbench", "tempcompass", "mmvu", "videoevalpro", "cgbench", "longtimescope", "vinoground",
    ),
    "paper": ("ov-7b", "video-7b", "mvbench", "egoschema", "longvideobench", "videomme"),
}  # fmt: skip


@dataclass(frozen=True)
class Offer:
    """What the hub says about a source. Sizes in bytes; missing: what is not here yet."""

    name: str
    source: Source
    licence: str
    gated: bool
    files: int
    size: int
    missing: int


def add_options(parser: Parser) -> None:
    names = [*SOURCES, *GROUPS]
    parser.add_argument("names", nargs="+", metavar="NAME", choices=names, help=f"out of {', '.join(names)}")
    parser.add_argument("--yes", action="store_true", help="start without asking")
    parser.add_argument("--list", action="store_true", help="only tell what there is to fetch")
    parser.add_argument("--cache-dir", type=Path, metavar="DIR", help="default: the hub's own cache")


class DownloadError(Exception):
    """Why nothing is fetched; one sentence."""


def execute(options, *, hub: Any = None, ask: Callable[[str], str] = input) -> int:
    """0 when everything is here, 1 when something could not be fetched or the answer was no.

    hub: what stands for huggingface_hub; ask: asks the person.
    """
    if hub is None:
        import huggingface_hub as hub
    # the HTTP client differs between versions of the hub's library; what it raises is above the hub's own errors
    network = (OSError, *hub.errors.HfHubHTTPError.__bases__)
    cache = options.cache_dir or Path(hub.constants.HF_HUB_CACHE)
    try:
        offers = _offers(expand(options.names), hub, cache, network)
        print(overview(offers, cache), flush=True)
        missing = [offer for offer in offers if offer.missing]
        if options.list or not missing:
            return 0
        size = sum(offer.missing for offer in missing)
        free = shutil.disk_usage(next(place for place in (cache, *cache.resolve().parents) if place.exists())).free
        if size > free:
            raise DownloadError(f"{decimal(size)} are missing and {decimal(free)} are free at {cache}; make room.")
        if not options.yes and ask("Start? [y/N] ").strip().lower() not in ("y", "yes"):
            return 1
    except DownloadError as error:
        print(f"aot download: {error}", file=sys.stderr)
        return 1
    except EOFError:
        print("aot download: nobody answered; give --yes to start without asking.", file=sys.stderr)
        return 1
    return 0 if all([fetch(offer, hub, cache, network) for offer in missing]) else 1


def expand(names: list[str]) -> list[str]:
    """Names of sources, groups taken apart, each once."""
    return list(dict.fromkeys(source for name in names for source in GROUPS.get(name, (name,))))


def _offers(names: list[str], hub: Any, cache: Path, network: tuple) -> list[Offer]:
    try:
        return [offer(name, SOURCES[name], hub, cache) for name in names]
    except network as error:
        said = _first_line(error)
        raise DownloadError(f"the hub cannot be asked ({said}); check the network and the access.") from error


def offer(name: str, source: Source, hub: Any, cache: Path) -> Offer:
    """Asks the hub; sizes and licence are what it says today."""
    info = hub.HfApi().repo_info(
        source.repository, repo_type=source.kind, revision=source.revision, files_metadata=True
    )
    sizes = {file.rfilename: file.size or 0 for file in info.siblings}
    missing = 0
    for file, count in sizes.items():
        here = hub.try_to_load_from_cache(
            source.repository, file, cache_dir=cache, revision=info.sha, repo_type=source.kind
        )
        missing += 0 if isinstance(here, str) else count
    return Offer(name, source, licence(info), bool(info.gated), len(sizes), sum(sizes.values()), missing)


def licence(info: Any) -> str:
    """The licence that a repository states, from its card or its tags."""
    card = info.card_data.to_dict() if info.card_data else {}
    stated = card.get("license") or next(
        (t.partition(":")[2] for t in info.tags or () if t.startswith("license:")), None
    )
    if isinstance(stated, list):
        stated = ", ".join(stated)
    return card.get("license_name") or stated or "not stated: read the repository's page"


def overview(offers: list[Offer], cache: Path) -> str:
    """What would be fetched, as lines for people."""
    lines = [
        f"{o.name}: {o.source.what}\n  {o.source.repository}, {o.files} files, {decimal(o.size)}, "
        f"{decimal(o.missing)} to fetch\n  licence: {o.licence}"
        + ("; access must be asked for on its page, then `hf auth login`" if o.gated else "")
        for o in offers
    ]
    total = sum(o.missing for o in offers)
    return "\n".join([*lines, f"to fetch in all: {decimal(total)}, to {cache}"])


def fetch(what: Offer, hub: Any, cache: Path, network: tuple) -> bool:
    """Fetches what is missing of a source, showing progress; False after a sentence when it broke off."""
    source = what.source
    print(f"{what.name}: {decimal(what.missing)}", file=sys.stderr)
    try:
        with handling(dict.fromkeys((signal.SIGINT, signal.SIGTERM), _stop)):
            hub.snapshot_download(source.repository, repo_type=source.kind, revision=source.revision, cache_dir=cache)
    except network as error:
        print(f"aot download: {what.name} broke off ({_first_line(error)}); the same command goes on.", file=sys.stderr)
        return False
    return True


def _stop(number: int, _: object) -> NoReturn:
    """At once: an exception would wait until each of the hub's threads has its file, gigabytes later."""
    os.write(2, b"\naot download: stopped; the same command goes on.\n")
    os._exit(128 + number)


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
