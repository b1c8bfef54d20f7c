"""Commands and options of the release before, which work for one more and say what they became."""

import sys

TABLES = {"main-vid": "main-video"}
RENAMED = {
    "reproduce": ("eval", "--or-embedded", "--pages", "docs/reproduced"),
    "benchmark": ("eval",),
    "methods": ("exam", "methods", "--page", "docs/results.md"),
    "exam-report": ("exam", "--report"),
}
# a command under an option that it alone had
OPTION_OF = {("train", "--stage"): "train-tiny"}
# options by the command of today and, where that differs, by the one they were typed with
OPTIONS = {
    "eval": {
        "--processes": "--nproc_per_node",
        "--machines": "--nnodes",
        "--machine-rank": "--node_rank",
        "--main-address": "--master_addr",
    },
    "exam": {"--retentions": "--retention"},
    "exam-report": {"--output": "--page", "--runs": "--output"},
}


def renamed(words: list[str]) -> list[str]:
    """The words of today for a command line; what is of the release before is told in a sentence."""
    typed, rest = words[0], words[1:]
    for (command, option), now in OPTION_OF.items():
        if typed == command and any(word.partition("=")[0] == option for word in rest):
            _tell(f"aot {typed} {option}", f"aot {now} {option}")
            return [now, *rest]
    command = list(RENAMED.get(typed, (typed,)))
    if typed in RENAMED:
        _tell(f"aot {typed}", f"aot {' '.join(command)}")
        rest = [TABLES.get(word, word) for word in rest]
    options = {**OPTIONS.get(command[0], {}), **OPTIONS.get(typed, {})}
    found: list[str] = []
    for word in rest:
        name, equals, value = word.partition("=")
        if name in options:
            _tell(name, options[name])
            found += [options[name], value] if equals else [options[name]]
        else:
            found.append(word)
        if found[-2:-1] == ["--master_addr"] and ":" in found[-1]:  # HOST:PORT
            host, _, port = found.pop().rpartition(":")
            found += [host, "--master_port", port]
    return [*command, *found]


def _tell(old: str, new: str) -> None:
    print(f"{old} is now {new}; the old name goes with the next release.", file=sys.stderr)
