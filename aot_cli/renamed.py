"""Commands of the release before, which work for one more and say what they became."""

import sys

TABLES = {"main-vid": "main-video"}
RENAMED = {"reproduce": ("eval", "--or-embedded", "--pages", "docs/reproduced")}


def renamed(words: list[str]) -> list[str]:
    """The words of today for a command line; one of the release before is told in a sentence."""
    if words[0] not in RENAMED:
        return words
    command = RENAMED[words[0]]
    print(f"aot {words[0]} is now aot {' '.join(command)}; the old name goes with the next release.", file=sys.stderr)
    return [*command, *(TABLES.get(word, word) for word in words[1:])]
