"""`scripts/reproduce.sh TABLE`: one of the published tables from nothing to a page in docs/reproduced."""

import sys
from dataclasses import replace
from pathlib import Path

import torch

from aot_cli.main import entry
from aot_cli.parser import Parser
from llava.eval.campaign.cli import add_launch_options, finish, launch_of
from llava.eval.campaign.embedded import ROOT, embedded_checkpoint, stand_in
from llava.eval.campaign.plan import with_limit
from llava.eval.campaign.progress import CampaignProgress
from llava.eval.campaign.report import write_table
from llava.eval.campaign.runner import Summary, run_campaign
from llava.eval.campaign.spec import CAMPAIGNS, Campaign, CampaignError, known_campaigns, load_campaign
from llava.eval.campaign.tables import load_tables
from llava.eval.markdown import write_section
from llava.eval.provenance import checkpoint_folder

ALIASES = {"main-vid": "main-video"}
PAGES = ROOT / "docs" / "reproduced"


def add_options(parser: Parser) -> None:
    parser.add_argument("table", metavar="TABLE", help=f"one of: {known_campaigns()}")
    parser.add_argument("--embedded", action="store_true", help="use the embedded model whatever there is")
    parser.add_argument("--limit", type=int, metavar="N", help="questions a task (default: all)")
    parser.add_argument(
        "--settings", action="append", default=[], metavar="TEXT",
        help="only all tokens and the settings with this in their name; may be repeated",
    )  # fmt: skip
    parser.add_argument("--pages", type=Path, default=PAGES, metavar="DIR", help="where the page goes")
    add_launch_options(parser)


def execute(options) -> int:
    """Runs what is missing of a table and writes its page; 0 when every question has a reply."""

    def work() -> Summary:
        campaign, launch = chosen(options), launch_of(options)
        summary = run_campaign(campaign, options.output, launch, CampaignProgress())
        if launch.machine_rank == 0:
            for page in write_pages(summary.folder, options.pages, ALIASES.get(options.table, options.table)):
                print(page)
        return summary

    return finish("aot reproduce", work)


def write_pages(folder: Path, pages: Path, name: str) -> list[Path]:
    """The pages of a campaign's tables, one a model; those among the project's documents are listed in its results."""
    written = [write_table(table, pages, name=name) for table in load_tables([folder])]
    if pages.resolve() == PAGES:
        write_section(PAGES.parent / "results.md", "reproduced", listing(PAGES))
    return written


def listing(pages: Path) -> str:
    """A line for every page: its title, a link, and its picture."""
    lines = ["## Published tables, run here", "Each page has the table, intervals, failures and what it was made with."]
    for page in sorted(pages.glob("*.md")):
        heading = page.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        lines.append(f"- [{heading}]({pages.name}/{page.name})")
        if page.with_suffix(".png").is_file():
            lines.append(f"  ![{heading}]({pages.name}/{page.stem}.png)")
    return "\n\n".join(lines[:2]) + "\n\n" + "\n".join(lines[2:])


def chosen(options) -> Campaign:
    """The table's campaign, on the embedded model where the real one cannot run; it says so."""
    name = ALIASES.get(options.table, options.table)
    if not (CAMPAIGNS / f"{name}.yaml").is_file():
        raise CampaignError(f"There is no table {options.table!r}; use one of: {known_campaigns()}.")
    campaign = load_campaign(name)
    if options.settings:
        kept = tuple(
            s for s in campaign.settings if s.aot is None or any(t.lower() in s.name.lower() for t in options.settings)
        )
        campaign = replace(campaign, settings=kept)
    reason = "as asked" if options.embedded else why_not(campaign)
    if reason is None:
        campaign = with_limit(campaign, options.limit)
    else:
        print(f"This runs on the embedded model ({reason}).", file=sys.stderr)
        campaign = stand_in(campaign, embedded_checkpoint(), limit=options.limit)
    if options.settings:
        rows = "of its rows only all tokens and " + "; ".join(options.settings)
        campaign = replace(campaign, note=f"{campaign.note}; {rows}" if campaign.note else rows)
    return campaign


def why_not(campaign: Campaign) -> str | None:
    """Why the table cannot run on its own checkpoints here; None when it can."""
    if not torch.cuda.is_available():
        return "there is no GPU here"
    missing = [model.checkpoint for model in campaign.models if checkpoint_folder(model.checkpoint) is None]
    if missing:
        return f"{missing[0]} is not here; scripts/download.sh fetches it"
    return None


main = entry("reproduce")
