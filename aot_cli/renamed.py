"""Commands of the release before, which work for one more and say what they became."""

import sys

TABLES = {"main-vid": "main-video"}
RENAMED = {"reproduce": ("eval", "--or-embedded", "--pages", "docs/reproduced")}
# a command under an option that it alone had
OPTION_OF = {("train", "--stage"): "train-tiny"}


def renamed(words: list[str]) -> list[str]:
    """The words of today for a command line; one of the release before is told in a sentence."""
    for (command, option), now in OPTION_OF.items():
        if words[0] == command and any(word.partition("=")[0] == option for word in words):
            told = f"aot {command} {option} is now aot {now} {option}; the old name goes with the next release."
            print(told, file=sys.stderr)
            return [now, *words[1:]]
    if words[0] not in RENAMED:
        return words
    command = RENAMED[words[0]]
    print(f"aot {words[0]} is now aot {' '.join(command)}; the old name goes with the next release.", file=sys.stderr)
    return [*command, *(TABLES.get(word, word) for word in words[1:])]
