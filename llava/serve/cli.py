"""`python -m llava.serve.cli` is `aot chat`, which `llava.chat` holds."""

import sys

from aot_cli.main import entry

main = entry("chat")

if __name__ == "__main__":
    sys.exit(main())
