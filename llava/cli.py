"""The console script `aot`: one name for the things a person does."""

import sys

from llava.collector import collector_off

HELP = """usage: aot COMMAND [options]

  chat       talk to a model about a video (aot chat --help)
  web        the same in a browser (aot web --help)
  visualize  draw what is kept of a video, why, and where the rest goes (aot visualize --help)
  eval       run models under settings on benchmarks, resumable (aot eval --help)
  report     tables of what was run, measured beside published (aot report --help)
  clip       write a sample video to try it on (aot clip --help)
  convert    write a checkpoint in the layout that vLLM reads (aot convert --help)
"""


def main(arguments: list[str] | None = None) -> int:
    """Hands over to the command; returns its exit code."""
    command, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if command == "chat":
        with collector_off(freeze=True):
            from llava.serve.cli import main as chat  # loads torch and transformers: only when needed

        return chat(rest, prog="aot chat")
    if command == "clip":
        from llava.serve.clip import main as clip

        return clip(rest, prog="aot clip")
    if command == "convert":
        from llava.model.convert import main as convert

        return convert(rest, prog="aot convert")
    if command == "eval":
        from llava.eval.campaign.cli import main as evaluate

        return evaluate(rest, prog="aot eval")
    if command == "report":
        from llava.eval.campaign.report import main as report

        return report(rest, prog="aot report")
    if command == "visualize":
        from llava.serve.visualize import main as visualize

        return visualize(rest, prog="aot visualize")
    if command == "web":
        from llava.serve.web import main as web

        return web(rest, prog="aot web")
    if command in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    known = "chat, web, visualize, eval, report, clip or convert"
    print(f"aot: there is no command {command!r}; use {known}.", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
