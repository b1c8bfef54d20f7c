"""LLaVA-NeXT's name of the chat: `python -m llava.serve.cli` is `aot chat`, whose code is in `llava.chat`."""

import sys

from aot_cli.main import entry

main = entry("chat")

if __name__ == "__main__":
    sys.exit(main())
